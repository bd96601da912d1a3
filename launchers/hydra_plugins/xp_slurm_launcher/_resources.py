"""What a job may ask of SLURM: the names a user writes, and what submitit and sbatch call them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hydra_plugins.xp_slurm_launcher._options import OWN_KEYS, extra_options, name_of, one_line, setup_lines
from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.text import printable, shown

_FOREIGN = ("tags",)
"""Resources of other launchers: an experiment may name them, SLURM has no use for them."""


_GPUS = re.compile(r"([A-Za-z0-9_.-]+:)?\d{1,6}")
_MOST = 2**31 - 2
_SAME = {
    "mem_gb": {"mem", "mem-per-cpu", "mem-per-gpu"},
    "time_min": {"time"},
    "gpus": {"gpus", "gpus-per-task", "gpus-per-socket"},
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of one job. None leaves the choice to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | str | None = None
    """Number, or TYPE:NUMBER."""
    cpus: int | None = None
    mem_gb: float | None = None
    time_min: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further sbatch options: {exclude: node7}, {exclusive: true}."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job: module load cuda, source env/bin/activate."""

    def with_(self, changes: Mapping[str, Any], where: str) -> "Resources":
        """These resources with some of them changed; `where` names the place the changes come from, for errors.

        Raises:
            UserError: an unknown resource, or a value that is not one.
        """
        known = [each.name for each in fields(self)]
        changes = {str(key): value for key, value in changes.items() if key not in _FOREIGN}
        for key in changes:
            if key not in known:
                ours = OWN_KEYS.get(key.replace("_", "-"))
                meant = f" (it is called {ours} here)" if ours else did_you_mean(key, known)
                raise UserError(
                    f"{where}.{printable(key)}: SLURM jobs have no such resource{meant}. Resources: "
                    f"{join_names(known)}; any option of sbatch goes into extra: {{OPTION: VALUE}}."
                )
        if "extra" in changes:
            given = changes["extra"] or {}
            if not isinstance(given, Mapping):
                raise UserError(f"{where}.extra={shown(given)}: {{OPTION: VALUE}} is wanted, as {{exclude: node7}}.")
            extra_options(given, f"{where}.extra")
            changes["extra"] = {**self.extra, **{str(name): value for name, value in given.items()}}
        if "setup" in changes:
            changes["setup"] = setup_lines(changes["setup"], f"{where}.setup")
        made = replace(self, **changes)
        made._check(where)
        return made

    def parameters(self) -> dict[str, Any]:
        """The resources as parameters of submitit's SLURM executor."""
        extra = extra_options(self.extra, "hydra.launcher.extra")
        given = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "time": extra.pop("time", self.time_min),
            "mem": f"{round(self.mem_gb * 1024)}MB" if self.mem_gb is not None else None,
        }
        return {**{key: value for key, value in given.items() if value is not None}, "additional_parameters": extra}

    def text(self) -> str:
        """The request in words, for an error."""
        names = ("partition", "account", "qos", "constraint", "gpus", "cpus", "mem_gb", "time_min")
        told = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) is not None]
        told += [f"{key}={value}" for key, value in self.extra.items()]
        return ", ".join(told) or "nothing in particular"

    def _check(self, where: str) -> None:
        for name in ("partition", "account", "qos", "constraint"):
            if (value := getattr(self, name)) is not None:
                name_of(value, f"{where}.{name}")
        for name, low in (("cpus", 1), ("time_min", 1), ("gpus", 0)):
            value = getattr(self, name)
            if name == "gpus" and isinstance(value, str):
                if not _GPUS.fullmatch(one_line(value, f"{where}.gpus")):
                    raise UserError(f"{where}.gpus={shown(value)}: a number is wanted, or TYPE:NUMBER as a100:2.")
            elif value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
                raise UserError(f"{where}.{name}={shown(value)}: a number of at least {low} is wanted, or null.")
            elif value is not None and value > _MOST:
                raise UserError(f"{where}.{name}={shown(value)}: SLURM counts to {_MOST}.")
        memory = self.mem_gb
        if memory is not None and (
            not isinstance(memory, int | float) or isinstance(memory, bool) or not 0 <= memory <= _MOST
        ):
            raise UserError(f"{where}.mem_gb={shown(memory)}: a number of gigabytes is wanted, or null.")
        self._check_twice(where)

    def _check_twice(self, where: str) -> None:
        """The same thing asked for in two ways: sbatch would take one of them without a word."""
        given = {str(key).replace("_", "-") for key, value in self.extra.items() if value not in (None, False)}
        for name, options in _SAME.items():
            if getattr(self, name) is not None and (twice := given & options):
                raise UserError(f"{where}: {name} and extra.{min(twice)} ask for the same thing. Give one of them.")


def resources_of(stage: str, base: Resources, wanted: Mapping[str, Any], by_stage: Mapping[str, Any]) -> Resources:
    """Resources of a stage's jobs: the launcher's, then the experiment file's, then the launcher's for this stage."""
    made = base.with_(wanted, f"stages.{stage}.resources")
    return made.with_(by_stage.get(stage) or {}, f"hydra.launcher.stages.{stage}")
