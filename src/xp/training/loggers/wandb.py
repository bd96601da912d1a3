"""A run of Weights & Biases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from xp.atomic import write_text
from xp.json_types import JSONObject
from xp.runs import Run
from xp.runs.records.json_io import read_object
from xp.training.loggers.protocol import Logger, missing


@dataclass(frozen=True, kw_only=True)
class WandbOptions:
    """The section `logger.wandb`."""

    project: str = "xp"
    entity: str | None = None
    group: str | None = None
    """None: the name of the experiment's folder."""
    name: str | None = None
    """None: the name of the run's folder."""
    mode: Literal["online", "offline", "disabled", "shared"] = "offline"
    tags: Sequence[str] = ()

    @classmethod
    def read(cls, section: JSONObject) -> "WandbOptions":
        """This class's keys of the section; what is empty or null there keeps its default."""
        given: dict[str, Any] = {f.name: section[f.name] for f in fields(cls) if section.get(f.name)}
        return cls(**given)


class WeightsAndBiases:
    """One W&B run per run folder, offline unless `mode: online`; its id is kept so that resuming continues it."""

    def __init__(self, run: Run, options: WandbOptions):
        try:
            import wandb
            from wandb.util import generate_id
        except ImportError as error:
            raise missing("wandb") from error
        identifier = run.folder / "wandb_id.txt"
        if not identifier.exists():
            write_text(identifier, generate_id())
        self._run = wandb.init(
            project=options.project,
            entity=options.entity,
            group=options.group or run.folder.parent.name,
            name=options.name or run.folder.name,
            mode=options.mode,
            tags=list(options.tags),
            id=identifier.read_text().strip(),
            resume="allow",
            dir=str(run.folder),
            config=read_object(run.folder / "config.json", default={}),  # redacted: never a secret
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()


def open_here(run: Run, section: JSONObject, start: int) -> Logger:
    """The logger of a run; see `xp.training.loggers.open_logger`."""
    return WeightsAndBiases(run, WandbOptions.read(section))
