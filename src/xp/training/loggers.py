"""Where numbers go besides the CSV logs, which are always written: Weights & Biases, TensorBoard, or nowhere."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from xp.atomic import write_text
from xp.errors import UserError
from xp.json_types import JSONObject
from xp.runs import Run
from xp.runs.records.json_io import read_object


@runtime_checkable
class Logger(Protocol):
    """A place for scalars by step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note `values` (names such as 'train/loss') at `step` finished updates."""
        ...

    def close(self) -> None:
        """Flush everything."""
        ...


class NoLogger:
    """Nowhere."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Loggers:
    """Several places at once."""

    def __init__(self, loggers: list[Logger]):
        self._loggers = loggers

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values in every place."""
        for logger in self._loggers:
            logger.log(step, values)

    def close(self) -> None:
        """Close all, the rest also when one fails."""
        errors = []
        for logger in self._loggers:
            try:
                logger.close()
            except Exception as error:  # one service's trouble must not lose the others' last values
                errors.append(error)
        if errors:
            raise errors[0]


class TensorBoard:
    """Event files in `tensorboard/` of the run folder, by TensorBoard's own writer (no TensorFlow, no torch)."""

    def __init__(self, folder: Path, purge_step: int | None = None):
        """`purge_step`: a resumed run tells TensorBoard to hide events from this step on, which it writes again."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        if purge_step is not None:
            started = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=purge_step, session_log=started))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one event with all values."""
        scalars = [self._summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars)))

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


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
            raise _missing("wandb") from error
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


def open_logger(run: Run, section: JSONObject | None, start: int = 0) -> Logger:
    """The places that a `logger` section turns on; CSV logs are not among them, since they are always written.

    Args:
        run: the run whose folder they write to.
        section: {wandb: {enabled, project, mode, ...}, tensorboard: {enabled}}; None turns both off.
        start: finished updates at the start: above 0 for a resumed run.

    Raises:
        UserError: a logger is on and its package is not installed.
    """
    tensorboard, wandb = (_enabled(section or {}, name) for name in ("tensorboard", "wandb"))
    loggers: list[Logger] = []
    if tensorboard is not None:
        loggers.append(TensorBoard(run.folder / "tensorboard", purge_step=start + 1 if start else None))
    if wandb is not None:
        loggers.append(WeightsAndBiases(run, WandbOptions.read(wandb)))
    return Loggers(loggers) if loggers else NoLogger()


def _enabled(section: JSONObject, name: str) -> JSONObject | None:
    """The settings of one logger where it is on."""
    found = section.get(name)
    return found if isinstance(found, Mapping) and found.get("enabled") else None


def _missing(package: str) -> UserError:
    return UserError(
        f"logger.{package}.enabled=true needs the package '{package}', which is not installed. Install it with "
        f"`uv sync --extra {package}` (or `pip install 'xp[{package}]'`), or type logger=csv to do without."
    )
