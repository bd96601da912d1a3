"""One writer per run folder: an advisory lock that the system drops when its holder dies, however it dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xp.errors import UserError
from xp.runs.folder import RECORD
from xp.runs.record import Record


class Busy(UserError):  # noqa: N818 - a state of affairs
    """Another process works in the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for the time of the block.

    Raises:
        Busy: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return  # a network file system without locks: the record's own state is all there is
        record = Record(folder / RECORD)
        who = f" (process {record['pid']} on {record['host']})" if record.get("pid") else ""
        raise Busy(
            f"Another process{who} is at work in {folder}. Wait for it (xp task=status shows it), end it, or give this "
            "run a folder of its own with hydra.run.dir=FOLDER."
        ) from None
