"""How large the state of a training is, what its digest is, and what to say when the disk is full."""

import contextlib
import errno
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xp.checkpoints.safetensors import raw_bytes
from xp.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Disk full, quota used up, file-size limit: for a user the same thing."""


def digest_of(arrays: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and values, independent of order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(raw_bytes(array))
    return digest.hexdigest()


def bytes_of(arrays: Mapping[str, Any]) -> int:
    """Bytes the arrays take."""
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
            f"The disk is full: {target.name} needs about {_human(needed)}, {_human(free)} are free in {target.parent} "
            f"({error.strerror}). Nothing half-written was left and {keeps}. Free some space, or lower "
            "trainer.keep_checkpoints, then give the same command again: the run goes on from there."
        ) from error


def _human(amount: int) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e8 else f"{amount / 1e6:.2f} MB"
