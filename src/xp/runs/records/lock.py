"""One writer per run folder: an advisory lock that the system drops when its holder dies, however it dies."""

import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xp.errors import UserError
from xp.runs.records.folder import RECORD
from xp.runs.records.json_io import explain_write_errors
from xp.runs.records.record import Record

LOCK = ".lock"
_FLOCK = "@hhqqi4x"
"""Linux's `struct flock` on 64-bit machines: type, whence, start, length, process (fcntl(2))."""


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
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
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


def hold(path: Path) -> bool:
    """Take the lock of a file for the rest of this process's life; False if another process has it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    return True


def holder(path: Path) -> int | None:
    """The process of this host that holds a file's lock, as the system knows it; None if none does.

    What a file says about a process is not asked: only the system knows who works here. A link to the lock of
    something else is none.
    """
    if sys.platform != "linux":
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return None
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        return pid if kind != fcntl.F_UNLCK and pid > 0 else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _busy(folder: Path) -> Busy:
    record = Record(folder / RECORD)
    who = f" (process {record['pid']} on {record['host']})" if record.get("pid") else ""
    return Busy(
        f"Another process{who} is at work in {folder}. Wait for it (xp task=status shows it), end it, or give this "
        "run a folder of its own with hydra.run.dir=FOLDER."
    )
