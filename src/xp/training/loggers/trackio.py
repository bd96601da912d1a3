"""A run of Trackio, in a database in the run's folder."""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xp.errors import UserError
from xp.json_types import JSONObject
from xp.runs import Run
from xp.runs.records.json_io import read_object
from xp.training.loggers.protocol import Logger, WithoutRepeats, missing

FOLDER = "TRACKIO_DIR"
"""Where Trackio keeps its databases: read when it is imported, and not again."""
REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""What would make it send the numbers elsewhere."""


class Trackio:
    """One Trackio run per run folder, in the database `trackio/PROJECT.db` there; resuming continues it."""

    def __init__(self, run: Run, section: JSONObject):
        """`section` is `logger.trackio`.

        Raises:
            UserError: the package is not there, or keeps its databases elsewhere.
        """
        folder = run.folder / "trackio"
        self._project, self._name = str(section.get("project") or "xp"), str(section.get("name") or run.folder.name)
        with _environment(folder):
            trackio = _imported(folder)
            self._storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
            self._run = trackio.init(
                project=self._project,
                name=self._name,
                group=run.folder.parent.name,
                config=dict(read_object(run.folder / "config.json", default={})),  # redacted: never a secret
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand the values to Trackio, which writes them within a second."""
        self._run.log(dict(values), step=step)

    def last_steps(self) -> dict[str, int]:
        """{name: last step that the run has a value of}."""
        rows = self._storage.get_logs(self._project, self._name)
        return {name: row["step"] for row in sorted(rows, key=lambda row: row["step"]) for name in row}

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """The variables that Trackio looks at: its databases are in `folder`, and nothing is sent anywhere."""
    before = {name: os.environ.pop(name, None) for name in (FOLDER, *REMOTE)}
    os.environ[FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[FOLDER]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _imported(folder: Path) -> Any:
    """Trackio, imported anew where an earlier run of this process has imported it for its own folder."""
    known = sys.modules.get("trackio.utils")
    if known is not None and folder != known.TRACKIO_DIR:
        for name in [each for each in sys.modules if each.partition(".")[0] == "trackio"]:
            del sys.modules[name]
    try:
        trackio = importlib.import_module("trackio")
    except ImportError as error:
        raise missing("trackio") from error
    place = importlib.import_module("trackio.utils").TRACKIO_DIR
    if place != folder:
        raise UserError(
            f"logger.trackio.enabled=true: this version of Trackio keeps its databases in {place} whatever TRACKIO_DIR "
            "says. Install the one that xp was tested with: `uv sync --extra trackio`, or type logger=csv"
        )
    return trackio


def open_here(run: Run, section: JSONObject, start: int) -> Logger:
    """The logger of a run; see `xp.training.loggers.open_logger`."""
    logger = Trackio(run, section)
    return WithoutRepeats(logger, logger.last_steps())
