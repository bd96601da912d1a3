"""Arrays on disk, shared by processes and bounded in size: built once, mapped by many, least recently used go first.

An entry is one file `<name>.npy`, which appears whole (written as `<name>.partial`, synchronised, renamed), and a lock
file `<name>.lock`: held exclusively while it is built or removed, shared while a process maps it. Locks vanish with
their processes, so a killed builder leaves a `.partial` that anyone may clear away.
"""

import errno
import logging
import os
import shutil
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from xp.data.locks import FileLock
from xp.errors import UserError

GIGABYTE = 10**9
_HEADER = 128
_log = logging.getLogger(__name__)


class CacheStore:
    """A folder of arrays, together at most `limit_gb` gigabytes (10^9 bytes).

    Args:
        root: The folder; made when needed.
        limit_gb: The bound on all entries together.
        log: Where lines for the user go, such as "waiting for another process"; default: this module's logger.
    """

    def __init__(self, root: Path, limit_gb: float, log: Callable[[str], None] | None = None) -> None:
        self.root = Path(root).expanduser()
        self.limit = int(limit_gb * GIGABYTE)
        self._log = log or _log.info

    def has(self, name: str) -> bool:
        """Whether the entry is there, complete."""
        return self._entry(name).is_file()

    def open(self, name: str, shape: tuple[int, ...], build: Callable[[np.ndarray], None]) -> np.memmap:
        """Map the uint8 array `name` read-only, building it first if nobody has.

        `build` fills an array of `shape`; it runs in one process while the others wait. The entry stays protected from
        eviction for as long as the returned array lives.

        Raises:
            UserError: no room on the disk or within the limit, or the folder cannot be written.
        """
        lock = FileLock(self.root / f"{name}.lock")
        while not (mapped := self._map(name, shape, lock)):
            self._wait_for(lock, name)
            if self._load(name, shape) is None:
                try:
                    self._build(name, shape, build)
                except BaseException:
                    lock.release()
                    raise
        return mapped[0]

    def _map(self, name: str, shape: tuple[int, ...], lock: FileLock) -> tuple[np.memmap] | None:
        """The entry under a shared lock, or None (and no lock) where it is not there."""
        if not lock.acquire(shared=True, blocking=False):
            return None
        array = self._load(name, shape)
        if array is None:
            lock.release()
            return None
        with suppress(OSError):
            os.utime(self._entry(name))  # a read-only cache still serves; it only forgets what was used last
        weakref.finalize(array, lock.release)
        return (array,)

    def _load(self, name: str, shape: tuple[int, ...]) -> np.memmap | None:
        """The entry, or None where it is missing or damaged (cut off by a copy, say): then it is built again."""
        try:
            array = np.load(self._entry(name), mmap_mode="r")
        except (FileNotFoundError, ValueError, EOFError):
            return None
        return array if isinstance(array, np.memmap) and array.shape == shape and array.dtype == np.uint8 else None

    def _wait_for(self, lock: FileLock, name: str) -> None:
        """Take the exclusive lock, saying so once if another process holds it."""
        if lock.acquire(blocking=False):
            return
        began = time.monotonic()
        self._log(f"frames {name}: another process is building them; waiting")
        lock.acquire()
        self._log(f"frames {name}: waited {time.monotonic() - began:.0f} s")

    def _build(self, name: str, shape: tuple[int, ...], build: Callable[[np.ndarray], None]) -> None:
        partial = self.root / f"{name}.partial"
        try:
            self._reserve(partial, int(np.prod(shape, dtype=np.int64)) + _HEADER, name)
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
            build(array)
            array.flush()
            del array
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self._entry(name))
        except OSError as error:
            raise self._write_error(error) from error
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, partial: Path, size: int, name: str) -> None:
        """Make room for `size` bytes and take them on the disk, so that filling the array cannot run out of disk."""
        if size > self.limit:
            raise UserError(
                f"The frames {name} take {_gb(size)} and data.cache_gb={self.limit / GIGABYTE:g} allows less. Type "
                f"data.cache_gb={_ceil_gb(size)} (or more, for all cameras), or use a model with smaller images."
            )
        with FileLock(self.root / "budget.lock"):
            self._make_room(size, keep=partial)
            with partial.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)

    def _make_room(self, size: int, keep: Path) -> None:
        """Remove entries, least recently used first, until `size` more bytes fit the limit and the disk."""
        keep.unlink(missing_ok=True)
        files = {path: path.stat() for path in self.root.iterdir() if path.suffix in (".npy", ".partial")}
        total = sum(stat.st_size for stat in files.values())
        for path in sorted(files, key=lambda p: files[p].st_mtime):
            if total + size <= self.limit and shutil.disk_usage(self.root).free >= size:
                return
            if self._remove(path):
                total -= files[path].st_size
        free = shutil.disk_usage(self.root).free
        if free < size:
            raise UserError(
                f"The disk of {self.root} is full: the frame cache needs {_gb(size)} ({size} bytes) and {_gb(free)} "
                f"({free} bytes) are free. Free some space, or give another disk: paths.cache=<folder>."
            )
        if total + size > self.limit:
            raise UserError(
                f"The frame cache needs {_gb(size)} more, but of data.cache_gb={self.limit / GIGABYTE:g} "
                f"running processes use {_gb(total)}. Type data.cache_gb={_ceil_gb(total + size)}, or "
                "wait for them to end."
            )

    def _remove(self, path: Path) -> bool:
        """Remove an entry that no process uses; True if it is gone."""
        lock = FileLock(path.with_suffix(".lock"))
        if not lock.acquire(blocking=False):
            return False
        try:
            path.unlink(missing_ok=True)
            lock.path.unlink(missing_ok=True)
            return True
        finally:
            lock.release()

    def _write_error(self, error: OSError) -> UserError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self.root).free
            return UserError(
                f"The disk of {self.root} is full ({error.strerror}; {_gb(free)} free). Free some space, or give "
                "another disk: paths.cache=<folder>."
            )
        return UserError(
            f"The frame cache cannot be written in {self.root} ({error}). Give a folder you may write to: "
            "paths.cache=<folder>."
        )

    def _entry(self, name: str) -> Path:
        return self.root / f"{name}.npy"


def _gb(size: int) -> str:
    return f"{size / GIGABYTE:.3g} GB"


def _ceil_gb(size: int) -> str:
    return f"{-(-size // (GIGABYTE // 10)) / 10:g}"
