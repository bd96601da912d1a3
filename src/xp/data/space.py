"""Errors of a full disk as one paragraph that says which disk it is, and what to type."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xp.errors import UserError
from xp.foreign.text import printable

_FULL = {
    errno.ENOSPC: "is full (no bytes or no inodes are left: see df and df -i)",
    errno.EDQUOT: "is full (your quota)",
    errno.EFBIG: "takes no files of this size",
}
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ESTALE,
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
)  # fmt: skip
_LEFT = 1 << 20
"""Bytes below which a disk counts as full where a library has only said that it could not write."""


@contextmanager
def writing(target: str | Path, mend: str) -> Iterator[None]:
    """Turn what goes wrong in the block for want of room (or permission) at `target` into one `UserError`.

    Libraries tell of a full disk in many ways, or not at all: LeRobot logs a picture that it could not write and goes
    on, to miss the file later. So any error counts where the disk has no room left.

    Args:
        target: the file or folder that is written; what was written of it is for the caller to remove.
        mend: what to type for another place: "data.root=FOLDER".

    Raises:
        UserError: there is no room, no free inode, or no permission.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        why = _why(error, Path(target))
        if why is None:
            raise
        raise UserError(
            f"{target} cannot be written: {why}. Nothing of it is left there. Make room, or give another place: {mend}"
        ) from error


def try_out(target: Path, mend: str) -> None:
    """Write a byte where `target` will lie, and remove it: before hours of work whose result would have no place.

    Raises:
        UserError: as for `writing`.
    """
    folder = next((parent for parent in target.absolute().parents if parent.is_dir()), Path("/"))
    with writing(target, mend), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()


def _why(error: Exception, target: Path) -> str | None:
    """What is wrong with the disk; None where it is something else."""
    folder = next((parent for parent in target.absolute().parents if parent.is_dir()), Path("/"))
    for cause in _causes(error):
        number = getattr(cause, "errno", None)
        if number in _FULL:
            return f"the disk of {folder} {_FULL[number]}"
        if number in _REFUSED and isinstance(cause, OSError):
            where = f" ({printable(cause.filename)})" if cause.filename else ""
            return f"{(cause.strerror or 'refused').lower()}{where}"
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    if disk.f_files and not disk.f_favail:
        return f"the disk of {folder} holds no more files (no free inode)"
    return f"the disk of {folder} is full" if disk.f_bavail * disk.f_frsize < _LEFT else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
