"""File locks between processes (flock): many readers or one writer, released when a process dies."""

import errno
import fcntl
import os
import weakref
from pathlib import Path

from xp.errors import UserError

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
_FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class FileLock:
    """A lock on a path. The file is made when needed and may be removed by a holder of the exclusive lock.

    A child that is forked while the lock is held does not hold it: it would keep it after its parent was killed.

    Args:
        path: The lock's file.
        what: The cache it belongs to, for messages.
    """

    def __init__(self, path: Path, what: str = "frame cache") -> None:
        self.path, self.what = path, what
        self._descriptor: int | None = None
        _all.add(self)

    def acquire(self, *, shared: bool = False, blocking: bool = True) -> bool:
        """Take the lock, or change between shared and exclusive; False if `blocking` is off and it is held elsewhere.

        Raises:
            UserError: the folder cannot be written, or its file system has no locks.
        """
        mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB)
        while True:
            if self._descriptor is None:
                self._descriptor = self._open()
            try:
                fcntl.flock(self._descriptor, mode)
            except BlockingIOError:
                self.release()
                return False
            except OSError as error:
                self.release()
                raise self._no_locks(error) from error
            if self._is_current():
                return True
            # Somebody removed the file between our opening and our locking it: lock the new one.
            self.release()

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_current(self) -> bool:
        assert self._descriptor is not None
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise cannot_write(self.path.parent, error, self.what) from error

    def _no_locks(self, error: OSError) -> UserError:
        why = "its file system has no file locks" if error.errno in _NO_LOCKS else str(error.strerror)
        return UserError(
            f"The {self.what} folder {self.path.parent} cannot be locked ({why}). Give a folder on a local disk: "
            "paths.cache=<folder>."
        )

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


_all: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_all):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)


def cannot_write(folder: Path, error: OSError, what: str = "frame cache") -> UserError:
    """One paragraph for an error of the file system: a full disk, no inodes, a folder that may only be read."""
    if error.errno in _FULL:
        return UserError(
            f"The disk of {folder} is full ({error.strerror}; {_left(folder)}): the {what} cannot be written. Free "
            "some space, or give another disk: paths.cache=<folder>."
        )
    return UserError(
        f"The {what} folder {folder} cannot be written ({error.strerror or error}). Give a folder on a disk you "
        "may write to: paths.cache=<folder>."
    )


def _left(folder: Path) -> str:
    """What a disk has left, where it says so: room, or the files that it can still hold."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        there = os.statvfs(folder)
    except OSError:
        return "nothing free"
    if there.f_files and not there.f_favail:
        return "no inodes are free: too many files"
    return f"{there.f_bavail * there.f_frsize / 1e9:.3g} GB free"
