"""Event files of TensorBoard in the run's folder."""

import time
from collections.abc import Mapping
from pathlib import Path

from xp.json_types import JSONObject
from xp.runs import Run
from xp.training.loggers.protocol import Logger, missing


class TensorBoard:
    """Event files in `tensorboard/` of the run folder, by TensorBoard's own writer (no TensorFlow, no torch)."""

    def __init__(self, folder: Path, purge_step: int | None = None):
        """`purge_step`: a resumed run tells TensorBoard to hide events from this step on, which it writes again."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise missing("tensorboard") from error
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


def open_here(run: Run, section: JSONObject, start: int) -> Logger:
    """The logger of a run; see `xp.training.loggers.open_logger`."""
    return TensorBoard(run.folder / "tensorboard", purge_step=start + 1 if start else None)
