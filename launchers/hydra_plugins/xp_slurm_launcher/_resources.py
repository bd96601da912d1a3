"""What a job may ask of SLURM: the names a user writes, and what submitit and sbatch call them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Required, TypedDict

from hydra_plugins.xp_slurm_launcher._options import OWN_KEYS, extra_options, name_of, one_line, setup_lines
from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.text import printable, shown
from xp.json_types import JSONObject

_FOREIGN = ("tags",)
"""Resources of other launchers: an experiment may name them, SLURM has no use for them."""


_GPUS = re.compile(r"([A-Za-z0-9_.-]+:)?\d{1,6}")
_MOST = 2**31 - 2
_SAME = {
    "mem_gb": {"mem", "mem-per-cpu", "mem-per-gpu"},
    "time_min": {"time"},
    "gpus": {"gpus", "gpus-per-task", "gpus-per-socket"},
}


type ByStage = Mapping[str, JSONObject | None]
"""{stage: {resource: value}}."""


class SbatchParameters(TypedDict, total=False):
    """Parameters of submitit's SLURM executor."""

    partition: str
    account: str
    qos: str
    constraint: str
    gpus_per_node: int | str
    cpus_per_task: int
    time: int | str | bool
    mem: str
    additional_parameters: Required[dict[str, str | bool]]
    srun_args: list[str]


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
    extra: Mapping[str, object] = field(default_factory=dict)
    """Further sbatch options: {exclude: node7}, {exclusive: true}."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job: module load cuda, source env/bin/activate."""

    def with_(self, changes: Mapping[str, object], where: str) -> "Resources":
        """These resources with some of them changed; `where` names the place the changes come from, for errors.

        Raises:
            UserError: an unknown resource, or a value that is not one.
        """
        known = [each.name for each in fields(self)]
        changed: dict[str, Any] = {str(key): value for key, value in changes.items() if key not in _FOREIGN}
        for key in changed:
            if key not in known:
                ours = OWN_KEYS.get(key.replace("_", "-"))
                meant = f" (it is called {ours} here)" if ours else did_you_mean(key, known)
                raise UserError(
                    f"{where}.{printable(key)}: SLURM jobs have no such resource{meant}. Resources: "
                    f"{join_names(known)}; any option of sbatch goes into extra: {{OPTION: VALUE}}."
                )
        if "extra" in changed:
            given = changed["extra"] or {}
            if not isinstance(given, Mapping):
                raise UserError(f"{where}.extra={shown(given)}: expected {{OPTION: VALUE}}, as {{exclude: node7}}.")
            extra_options(given, f"{where}.extra")
            changed["extra"] = {**self.extra, **{str(name): value for name, value in given.items()}}
        if "setup" in changed:
            changed["setup"] = setup_lines(changed["setup"], f"{where}.setup")
        made = replace(self, **changed)
        made._check(where)
        return made

    def parameters(self) -> SbatchParameters:
        """The resources as parameters of submitit's SLURM executor."""
        extra = extra_options(self.extra, "hydra.launcher.extra")
        time = extra.pop("time", self.time_min)
        made = SbatchParameters(additional_parameters={**extra})
        if self.partition is not None:
            made["partition"] = self.partition
        if self.account is not None:
            made["account"] = self.account
        if self.qos is not None:
            made["qos"] = self.qos
        if self.constraint is not None:
            made["constraint"] = self.constraint
        if self.gpus:
            made["gpus_per_node"] = self.gpus
        if self.cpus is not None:
            made["cpus_per_task"] = self.cpus
        if time is not None:
            made["time"] = time
        if self.mem_gb is not None:
            made["mem"] = f"{round(self.mem_gb * 1024)}MB"
        return made

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
                    raise UserError(f"{where}.gpus={shown(value)}: expected a number, or TYPE:NUMBER as a100:2.")
            elif value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
                raise UserError(f"{where}.{name}={shown(value)}: expected a number of at least {low}, or null.")
            elif value is not None and value > _MOST:
                raise UserError(f"{where}.{name}={shown(value)}: SLURM counts to {_MOST}.")
        memory = self.mem_gb
        if memory is not None and (
            not isinstance(memory, int | float) or isinstance(memory, bool) or not 0 <= memory <= _MOST
        ):
            raise UserError(f"{where}.mem_gb={shown(memory)}: expected a number of gigabytes, or null.")
        self._check_twice(where)

    def _check_twice(self, where: str) -> None:
        """The same thing asked for in two ways: sbatch would take one of them without a word."""
        given = {str(key).replace("_", "-") for key, value in self.extra.items() if value not in (None, False)}
        for name, options in _SAME.items():
            if getattr(self, name) is not None and (twice := given & options):
                raise UserError(f"{where}: {name} and extra.{min(twice)} ask for the same thing. Give one of them.")


def resources_of(stage: str, base: Resources, wanted: Mapping[str, object], by_stage: ByStage) -> Resources:
    """Resources of a stage's jobs: the launcher's, then the experiment file's, then the launcher's for this stage."""
    made = base.with_(wanted, f"stages.{stage}.resources")
    return made.with_(by_stage.get(stage) or {}, f"hydra.launcher.stages.{stage}")
