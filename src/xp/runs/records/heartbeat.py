"""`heartbeat.json`: a running job says every few seconds that it is still there, for whoever cannot see its process."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xp.atomic import write_json
from xp.json_types import JSON
from xp.runs.records.json_io import read_object

HEARTBEAT = "heartbeat.json"
HANDLE_VARIABLE = "XP_HANDLE"
"""Environment variable in which an executor tells a job its own handle."""
BEAT_S = 2.0
"""How often the heartbeat is written."""
STALE_S = 90.0
"""A heartbeat older than this is that of a dead job (network file systems may show a file up to a minute late)."""


@contextmanager
def beating(
    folder: Path, step: Callable[[], int | None] = lambda: None, *, every_s: float = BEAT_S
) -> Iterator[str | None]:
    """Write `heartbeat.json` now and every `every_s` seconds while the block runs, from a thread of its own.

    Gives the job's handle, where an executor gave it one. A beat that cannot be written (a full disk) is left out.
    """
    handle = os.environ.get(HANDLE_VARIABLE)
    fixed = {"host": socket.gethostname(), "pid": os.getpid(), "handle": handle}
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every_s):
            _write(folder, {**fixed, "step": step()})

    _write(folder, {**fixed, "step": None})
    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield handle
    finally:
        over.set()
        thread.join()


def last_beat(folder: Path) -> dict[str, JSON]:
    """The last heartbeat of a run: time (seconds since 1970), host, pid, handle, step; empty if there is none."""
    return read_object(folder / HEARTBEAT, default={})


def beats(folder: Path, *, stale_s: float = STALE_S) -> bool:
    """Whether the run in `folder` gave a heartbeat in the last `stale_s` seconds.

    The writer's clock and the file system's are both asked and the younger sign counts, so that a host whose clock
    is behind is not taken for dead. No heartbeat: not alive.
    """
    beat = last_beat(folder)
    if not beat:
        return False
    try:
        written = (folder / HEARTBEAT).stat().st_mtime
    except OSError:
        written = 0.0
    said = beat.get("time")
    return time.time() - max(said if isinstance(said, int | float) else 0.0, written) < stale_s


def _write(folder: Path, content: dict[str, JSON]) -> None:
    try:
        write_json(folder / HEARTBEAT, {"time": time.time(), **content}, durable=False)
    except OSError:
        return
