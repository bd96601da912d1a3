"""Where numbers go besides the CSV logs, which are always written: Weights & Biases and TensorBoard, or nowhere."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from xp.atomic import write_text
from xp.errors import UserError
from xp.runs import Run
from xp.runs.records.json_io import read_json


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


class WeightsAndBiases:
    """One W&B run per run folder, offline unless `mode: online`; its id is kept so that resuming continues it."""

    def __init__(self, run: Run, section: Mapping[str, Any]):
        try:
            import wandb
            from wandb.util import generate_id
        except ImportError as error:
            raise _missing("wandb") from error
        identifier = run.folder / "wandb_id.txt"
        if not identifier.exists():
            write_text(identifier, generate_id())
        self._run = wandb.init(
            project=section.get("project") or "xp",
            entity=section.get("entity"),
            group=section.get("group") or run.folder.parent.name,
            name=section.get("name") or run.folder.name,
            mode=section.get("mode") or "offline",
            tags=list(section.get("tags") or []),
            id=identifier.read_text().strip(),
            resume="allow",
            dir=str(run.folder),
            config=read_json(run.folder / "config.json", default={}),  # redacted: never a secret
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()


def open_logger(run: Run, section: Mapping[str, Any] | None, start: int = 0) -> Logger:
    """The places that a `logger` section turns on; CSV logs are not among them, since they are always written.

    Args:
        run: the run whose folder they write to.
        section: {wandb: {enabled, project, mode, ...}, tensorboard: {enabled}}; None turns both off.
        start: finished updates at the start: above 0 for a resumed run.

    Raises:
        UserError: a logger is on and its package is not installed.
    """
    section, loggers = section or {}, []
    if (section.get("tensorboard") or {}).get("enabled"):
        loggers.append(TensorBoard(run.folder / "tensorboard", purge_step=start + 1 if start else None))
    if (section.get("wandb") or {}).get("enabled"):
        loggers.append(WeightsAndBiases(run, section["wandb"]))
    return Loggers(loggers) if loggers else NoLogger()


def _missing(package: str) -> UserError:
    return UserError(
        f"logger.{package}.enabled=true needs the package '{package}', which is not installed. Install it with "
        f"`uv sync --extra {package}` (or `pip install 'xp[{package}]'`), or type logger=csv to do without."
    )
