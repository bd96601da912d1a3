"""What `hydra/launcher=ssh` can be told, checked in one place."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hydra_plugins.xp_ssh_launcher._hosts import Host, parse_hosts
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON

SECRETS = ("WANDB_API_KEY",)
"""Environment variables that always go to jobs, if they are set."""
_LOWEST = {
    "lost_after_min": 0.0,
    "retries": 0,
    "sync_every_s": 0.1,
    "min_free_gb": 0.0,
    "sync_max_gb": 0.0,
    "grace_s": 0.0,
    "gpu_used_max": 0.0,
}

_UV = (
    "command -v uv >/dev/null || { python3 -m venv {workdir}/uv && {workdir}/uv/bin/pip install --quiet uv; }",
    'PATH="$PATH:{workdir}/uv/bin" UV_PROJECT_ENVIRONMENT={workdir}/venv uv sync --quiet --frozen '
    "--no-default-groups --group plugins --project {code}",
)
"""The locked environment of the code that was sent, made by uv (which is fetched where it is missing)."""
_UV_CUDA = " --extra cuda"
"""Added to the last command on hosts whose GPUs are used."""
_UV_PYTHON = "{workdir}/venv/bin/python"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See conf/hydra/launcher/ssh.yaml for the meaning of each."""

    hosts: tuple[Host, ...]
    workdir: str = "~/.xp"
    python: str = "python3"
    setup: tuple[str, ...] = ()
    environment: str | None = None
    ssh_config: str | None = None
    pass_env: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    here: tuple[str, ...] = ("report",)
    threads: int | None = None
    lost_after_min: float = 10.0
    retries: int = 2
    sync_every_s: float = 5.0
    min_free_gb: float = 1.0
    sync_max_gb: float = 50.0
    grace_s: float = 30.0
    gpu_used_max: float = 0.1
    target: str = "xp.__main__:run_task"

    def set_up(self, *, gpus: bool) -> tuple[str, ...]:
        """All commands that make a host ready; `gpus` if its GPUs will be used."""
        if self.environment != "uv":
            return self.setup
        fetch, sync = _UV
        return (fetch, sync + (_UV_CUDA if gpus else ""), *self.setup)

    @property
    def prepares(self) -> bool:
        """Whether hosts are made ready by commands, which may take minutes."""
        return bool(self.set_up(gpus=False))

    @property
    def interpreter(self) -> str:
        """The jobs' Python: the made environment's, unless another one is named."""
        return _UV_PYTHON if self.environment == "uv" and self.python == "python3" else self.python

    @property
    def secret_names(self) -> tuple[str, ...]:
        """Environment variables handed to jobs by standard input."""
        return tuple(dict.fromkeys((*SECRETS, *self.pass_env)))

    def to_json(self) -> dict[str, JSON]:
        """Plain values; `settings_of` reads them back."""
        plain = asdict(self)
        plain["hosts"] = [{key: value for key, value in asdict(host).items() if key != "local"} for host in self.hosts]
        return plain


def settings_of(**given: object) -> Settings:
    """Settings from what a configuration or a file holds.

    Raises:
        UserError: an unknown name, a value out of bounds, no host.
    """
    known = [each.name for each in fields(Settings)]
    for name in given:
        if name not in known:
            raise UserError(
                f"hydra.launcher.{name}: the ssh launcher has no such setting{did_you_mean(name, known)}. It has: "
                f"{join_names(known)}."
            )
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values["hosts"] = parse_hosts(given.get("hosts"))
    for name in ("setup", "pass_env", "here"):
        value = values.get(name, ())
        values[name] = (value,) if isinstance(value, str) else tuple(str(each) for each in value)
    values["env"] = _environment(values.get("env", {}))
    for name, low in _LOWEST.items():
        value = values.get(name, low)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < float("inf"):
            raise UserError(f"hydra.launcher.{name}={value!r}: expected a number of at least {low:g}.")
    for name, low in (("retries", 0), ("threads", 1)):
        value = values.get(name, low)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 10**6:
            raise UserError(f"hydra.launcher.{name}={value!r}: expected a whole number of at least {low}.")
    for name in ("workdir", "python", "ssh_config", "target"):
        if name in values and (not isinstance(values[name], str) or re.search(r"^-|[\x00-\x1f\x7f]", values[name])):
            raise UserError(
                f"hydra.launcher.{name}={values[name]!r}: expected text that does not begin with '-' and has no "
                "line breaks or other control characters."
            )
    if values.get("environment") not in (None, "uv"):
        raise UserError(f"hydra.launcher.environment={values['environment']}: allowed are uv and null.")
    if "here" not in given or given["here"] is None:
        del values["here"]
    return Settings(**values)


def _environment(given: object) -> dict[str, str]:
    """Environment variables as text.

    Raises:
        UserError: a name or a value that no environment can hold.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"hydra.launcher.env={given!r}: expected {{NAME: VALUE}}, or +hydra.launcher.env.NAME=VALUE.")
    found = {str(name): str(value) for name, value in given.items()}
    for name, value in found.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
            raise UserError(
                f"hydra.launcher.env.{name!r}: a variable's name has letters, digits and '_', and its value no NUL."
            )
    return found
