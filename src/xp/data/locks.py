"""File locks between processes on one machine (flock): many readers or one writer, released when a process dies."""

import errno
import fcntl
import os
from pathlib import Path

from xp.errors import UserError

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class FileLock:
    """A lock on a path. The file is made when needed and may be removed by a holder of the exclusive lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, *, shared: bool = False, blocking: bool = True) -> bool:
        """Take the lock, or change between shared and exclusive; False if `blocking` is off and it is held elsewhere.

        Raises:
            UserError: the folder cannot be written, or its file system has no locks.
        """
        mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB)
        while True:
            if self._descriptor is None:
                self._descriptor = _open(self.path)
            try:
                fcntl.flock(self._descriptor, mode)
            except BlockingIOError:
                self.release()
                return False
            except OSError as error:
                self.release()
                raise _no_locks(self.path, error) from error
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

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(
            f"The frame cache folder {path.parent} cannot be written ({error.strerror}). Give a folder on a disk you "
            "may write to: paths.cache=<folder>."
        ) from error


def _no_locks(path: Path, error: OSError) -> UserError:
    why = "its file system has no file locks" if error.errno in _NO_LOCKS else str(error.strerror)
    return UserError(
        f"The frame cache folder {path.parent} cannot be locked ({why}). Give a folder on a local disk: "
        "paths.cache=<folder>."
    )
