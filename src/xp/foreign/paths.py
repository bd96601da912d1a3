"""Paths that a foreign folder names, and the files in it: never outside the folder, never a pipe or a device."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from xp.errors import UserError
from xp.foreign.text import printable

_LONGEST = 1024
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class RefusedError(UserError):
    """A file from outside is not what it should be."""


class MissingError(RefusedError):
    """A file is not there: for callers that have a default."""


def regular_file(path: str | Path, what: str) -> Path:
    """`path`, if it is a file or a link to one.

    Args:
        path: any path.
        what: what the file is, for the message: "the dataset's description".

    Raises:
        MissingError: nothing is there.
        RefusedError: a folder, a named pipe, a device or a socket is there, or it cannot be looked at.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _unreachable(path, what, error) from error
    _refuse_other_kinds(path, what, mode)
    return path


def opened(path: str | Path, what: str) -> BinaryIO:
    """A file opened for reading in binary. Unlike `open`, it never waits (a pipe) and never opens a device.

    Raises:
        MissingError, RefusedError: as `regular_file`.
    """
    path = regular_file(path, what)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreachable(path, what, error) from error
    handle = os.fdopen(descriptor, "rb")
    try:
        _refuse_other_kinds(path, what, os.fstat(descriptor).st_mode)  # it may have been changed since
    except RefusedError:
        handle.close()
        raise
    return handle


def inside(folder: str | Path, relative: str | Path, what: str) -> Path:
    """`folder/relative`, if that is inside the folder, wherever links lead. The file need not be there.

    Links may lead into the `blobs` of a Hugging Face cache whose `snapshots/REVISION` the folder is.

    Args:
        folder: the foreign folder.
        relative: the path as the folder names it.
        what: what the path is for, for the message: "meta/info.json's data_path".

    Raises:
        RefusedError: an absolute path, one with `..` or a null character, one that is too long, one that leaves the
            folder by a link, or no path at all.
    """
    folder = Path(folder)
    if not isinstance(relative, str | Path) or not str(relative):
        raise RefusedError(f"{what} is {printable(repr(relative), 80)}: expected the name of a file inside {folder}.")
    text = str(relative)
    if "\0" in text or len(text) > _LONGEST or not _is_writable_text(text):
        raise RefusedError(f"{what} is {printable(repr(text), 80)}, which no file is called. {_ONLY_INSIDE}")
    if text.startswith("/") or ".." in Path(text).parts:
        raise RefusedError(f"{what} is {printable(repr(text), 80)}, which leads out of {folder}. {_ONLY_INSIDE}")
    path = folder / text
    real, root = os.path.realpath(path), os.path.realpath(folder)
    if not any(_is_below(real, allowed) for allowed in (root, *_blobs(root))):
        raise RefusedError(
            f"{what} is {printable(repr(text), 80)}, a link that leads out of {folder} to {printable(real)}. "
            f"{_ONLY_INSIDE} Where you made the link yourself, put the file itself there: cp -L."
        )
    return path


def member(folder: str | Path, relative: str | Path, what: str) -> Path:
    """`inside` and `regular_file` at once: a file that a foreign folder has, or names."""
    return regular_file(inside(folder, relative, what), what)


_ONLY_INSIDE = "A folder may name files inside itself only, by paths relative to it."


def _is_writable_text(text: str) -> bool:
    try:
        return all(len(part) <= 255 for part in os.fsencode(text).split(b"/"))
    except UnicodeEncodeError:
        return False


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _blobs(root: str) -> list[str]:
    """The `blobs` beside `snapshots`, if `root` is a snapshot of a Hugging Face cache or a folder in one."""
    for parent in Path(root).parents:
        if parent.name == "snapshots":
            blobs = parent.parent / "blobs"
            return [str(blobs)] if blobs.is_dir() and os.path.realpath(blobs) == str(blobs) else []
    return []


def _refuse_other_kinds(path: Path, what: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((word for test, word in _KINDS if test(mode)), "something else")
        raise RefusedError(f"{printable(path)} is {kind}: expected a file, {what}.")


def _unreachable(path: Path, what: str, error: Exception) -> UserError:
    name, number = printable(path), getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR):
        link = path.is_symlink()
        return MissingError(
            f"{name} is a link to a file that is not there: it should lead to {what}."
            if link
            else f"There is no file {name}: it should be {what}."
        )
    if number in (errno.EACCES, errno.EPERM):
        return RefusedError(f"You may not read {name} ({what}). Ask its owner, or type chmod u+r for your own file.")
    if number == errno.ELOOP:
        return RefusedError(f"{name} is a link that leads back to itself: it should be {what}.")
    return RefusedError(f"{name} ({what}) cannot be read ({printable(error)}).")
