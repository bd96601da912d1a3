"""One writer per run folder: an advisory lock that the system drops when its holder dies, however it dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xp.errors import UserError
from xp.runs.folder import RECORD
from xp.runs.reading import writing
from xp.runs.record import Record


class Busy(UserError):  # noqa: N818 - a state of affairs
    """Another process works in the folder."""


_held: set[Path] = set()
"""Folders that this process holds: the system's locks exclude other processes, not other threads."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for the time of the block.

    Raises:
        Busy: another process holds it.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    if folder in _held:
        raise _busy(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor, folder)
        _held.add(folder)
        yield
    finally:
        _held.discard(folder)
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    """Take a POSIX lock: unlike flock's it is not inherited, so forked children that outlive the run do not hold it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return  # a network file system without locks: the record's own state is all there is
        raise _busy(folder) from None


def _busy(folder: Path) -> Busy:
    record = Record(folder / RECORD)
    who = f" (process {record['pid']} on {record['host']})" if record.get("pid") else ""
    return Busy(
        f"Another process{who} is at work in {folder}. Wait for it (xp task=status shows it), end it, or give this "
        "run a folder of its own with hydra.run.dir=FOLDER."
    )
