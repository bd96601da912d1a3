"""Room on the disk for what a training writes: how much that is, and the error where it does not fit."""

import contextlib
import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from xp.errors import UserError, human_size

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Disk full, quota used up, file-size limit: for a user the same thing."""


@runtime_checkable
class HasBytes(Protocol):
    """An array of whatever framework."""

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        ...


def bytes_of(arrays: Mapping[str, HasBytes]) -> int:
    """Bytes that the data of the arrays takes."""
    return sum(int(array.nbytes) for array in arrays.values())


@contextlib.contextmanager
def room_for(target: Path, needed: int, keeps: str) -> Iterator[None]:
    """Turn a full disk while writing `target` into a message with the bytes needed and free.

    Args:
        target: the folder being written.
        needed: bytes it takes (an estimate). When the disk has less than that free, nothing is begun.
        keeps: what is safe, for the message, e.g. 'checkpoints/checkpoint-200 is complete'.

    Raises:
        UserError: the disk is full, a quota is used up or a file-size limit is reached.
    """
    free = shutil.disk_usage(target.parent).free
    try:
        if free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(target.parent).free
        raise UserError(
            f"The disk is full: {target.name} needs about {human_size(needed)}, {human_size(free)} are free in "
            f"{target.parent} ({error.strerror}). Nothing half-written was left and {keeps}. Free some space, or lower "
            "trainer.keep_checkpoints, then give the same command again: the run continues from there."
        ) from error
