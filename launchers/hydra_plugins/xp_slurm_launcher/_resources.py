"""What a job may ask of SLURM: the names a user writes, and what submitit and sbatch call them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from xp.errors import UserError, closest, listing

_FOREIGN = ("tags",)
"""Resources of other launchers: an experiment may name them, SLURM has no use for them."""


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
                raise UserError(
                    f"{where}.{key}: SLURM jobs have no such resource{closest(key, known)}. Resources: "
                    f"{listing(known)}; any option of sbatch goes into extra: {{OPTION: VALUE}}."
                )
        if "extra" in changes:
            changes["extra"] = {**self.extra, **(changes["extra"] or {})}
        if "setup" in changes:
            given = changes["setup"] or ()
            changes["setup"] = (given,) if isinstance(given, str) else tuple(map(str, given))
        made = replace(self, **changes)
        made._check(where)
        return made

    def parameters(self) -> dict[str, Any]:
        """The resources as parameters of submitit's SLURM executor."""
        extra = {key.replace("_", "-"): value for key, value in self.extra.items() if value not in (None, False)}
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
        for name, low in (("cpus", 1), ("mem_gb", 0), ("time_min", 1), ("gpus", 0)):
            value = getattr(self, name)
            if name == "gpus" and isinstance(value, str):
                continue
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or value < low):
                raise UserError(f"{where}.{name}={value!r}: a number of at least {low} is wanted, or null.")


def resources_of(stage: str, base: Resources, wanted: Mapping[str, Any], by_stage: Mapping[str, Any]) -> Resources:
    """Resources of a stage's jobs: the launcher's, then the experiment file's, then the launcher's for this stage."""
    made = base.with_(wanted, f"stages.{stage}.resources")
    return made.with_(by_stage.get(stage) or {}, f"hydra.launcher.stages.{stage}")
