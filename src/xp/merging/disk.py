"""Disks: room is checked before a merge writes anything, and errors of reading and writing become messages."""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from xp.checkpoints.arrays import Leaf
from xp.errors import UserError, human_size

SPARE = 10_000_000
"""Bytes beside the weights: configuration, tokenizer, statistics, merge.json."""
_REASONS = {
    errno.ENOSPC: "the disk is full, or can hold no more files",
    errno.EDQUOT: "your quota is used up",
    errno.EFBIG: "a file may not become that large here (a limit of the file system, or `ulimit -f`)",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "access is denied",
    errno.EPERM: "access is denied",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk failed to read or write",
    errno.EMFILE: "too many files are open (`ulimit -n`)",
    errno.ENOENT: "a file or folder vanished meanwhile",
    errno.ESTALE: "the file server lost the file",
}
_FROM_STORE = re.compile(r"os_error_code='(\d+)'")
"""What tensorstore ends its errors with that come from the system."""


def check_room(output: Path, leaves: Mapping[str, Leaf]) -> None:
    """Refuse a merge whose output cannot fit.

    Raises:
        UserError: says how much is needed and how much is free.
    """
    place = output.absolute()
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    needed = sum(leaf.nbytes for leaf in leaves.values())
    if needed + (SPARE if needed > SPARE else 0) > free:
        raise UserError(
            f"The merged weights take {human_size(needed)}, and {human_size(free)} are free in {place}. Nothing was "
            "written. Make room, or write elsewhere: merge.output=FOLDER"
        )
    if found.f_files and not found.f_favail:
        raise UserError(
            f"The disk of {place} can hold no more files (no free inodes), although {human_size(free)} are free. "
            "Nothing was written. Remove files, or write elsewhere: merge.output=FOLDER"
        )


def as_user_error(error: OSError | ValueError, output: Path) -> UserError | None:
    """The message for an error of reading or writing files; None for any other error."""
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        match = _FROM_STORE.search(str(error))
        return None if match is None else _message(output, int(match[1]), os.strerror(int(match[1])))
    name = f": {error.filename}" if error.filename else ""
    return _message(output, error.errno or 0, f"{os.strerror(error.errno)}{name}" if error.errno else str(error))


def _message(output: Path, number: int, detail: str) -> UserError:
    why = _REASONS.get(number, "files could not be read or written")
    return UserError(
        f"Merging into {output} failed: {why} ({detail}). Nothing was kept. Free some space or fix the cause, or write "
        "elsewhere: merge.output=FOLDER"
    )
