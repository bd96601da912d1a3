"""Arrays on disk, shared by processes and bounded in size: built once, mapped by many, least recently used go first.

An entry is one file `<name>.npy`, which appears whole (written as `<turn>.<random>.partial`, synchronised, renamed).
Two locks, never one for the other: the turn to build it (`xp.data.turns`), which nobody keeps after it is built, and
`<name>.lock`, shared while a process maps the entry and exclusive while one removes it. Both vanish with their
processes. On a disk that several machines share, `xp.data.use_marks` protects what another machine maps.
"""

import logging
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xp.data import use_marks
from xp.data.locks import FileLock, cannot_write
from xp.data.turns import POLL_S, Turn
from xp.errors import UserError, disk_full

GIGABYTE = 10**9
_HEADER = 128
_log = logging.getLogger(__name__)


class NoRoomError(UserError):
    """The cache has no room. `reason` is the first sentence of the message: what is needed, and what there is."""

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(f"{reason} {mend}")
        self.reason = reason


@dataclass(frozen=True)
class Wanted:
    """An array that is wanted: uint8 of `shape`, under any of `names`.

    `turn` names whose turn it is to build it: one for all names, so that not even the choice among them is made twice.
    `plan()`, called by the builder alone, gives the name it will have and what fills it.
    """

    turn: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    plan: Callable[[], tuple[str, Callable[[np.ndarray], None]]]


class CacheStore:
    """A folder of arrays, together at most `limit_gb` gigabytes (10^9 bytes).

    Args:
        root: The folder; made when needed.
        limit_gb: The bound on all entries together.
        log: Where lines for the user go, such as "waiting for another process"; default: this module's logger.
        check: Called now and then while waiting; raises to end it.
    """

    def __init__(
        self,
        root: Path,
        limit_gb: float,
        log: Callable[[str], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.limit = int(limit_gb * GIGABYTE)
        self._log = log or _log.info
        self._check = check

    def has(self, name: str) -> bool:
        """Whether the entry is there, complete."""
        return self._entry(name).is_file()

    def open(self, name: str, shape: tuple[int, ...], build: Callable[[np.ndarray], None]) -> np.memmap:
        """Map the uint8 array `name` read-only, building it first if nobody has; see `open_all`."""
        return self.open_all([Wanted(name, (name,), shape, lambda: (name, build))])[0]

    def open_all(self, wanted: Sequence["Wanted"]) -> list[np.memmap]:
        """Map arrays read-only, building those that nobody has.

        Each is built by one process at a time; several may build one each. Whoever finds all that is missing being
        built waits, looking now and then, and has an array as soon as its builder has. An entry stays protected from
        eviction for as long as its array lives.

        Raises:
            UserError: no room on the disk or within the limit, or the folder cannot be written.
        """
        found: dict[int, np.memmap] = {}
        turns = [Turn(self.root / each.turn) for each in wanted]
        began: dict[int, float] = {}
        while len(found) < len(wanted):
            before = len(found)
            for i in (i for i in range(len(wanted)) if i not in found):
                array = self._map_any(wanted[i]) or self._build_in_turn(wanted[i], turns[i])
                if array is not None:
                    found[i] = array[0]
                    if i in began:
                        self._log(f"frames {wanted[i].turn}: waited {time.monotonic() - began[i]:.0f} s")
            if len(found) == before:
                self._wait(wanted, found, began)
        return [found[i] for i in range(len(wanted))]

    def _wait(self, wanted: Sequence["Wanted"], found: Container[int], began: dict[int, float]) -> None:
        for i, each in enumerate(wanted):
            if i not in found and i not in began:
                began[i] = time.monotonic()
                self._log(f"frames {each.turn}: another process is building them; waiting")
        self._check()
        time.sleep(POLL_S)

    def _map_any(self, wanted: "Wanted") -> tuple[np.memmap] | None:
        return next(filter(None, (self._map(name, wanted.shape) for name in wanted.names)), None)

    def _map(self, name: str, shape: tuple[int, ...]) -> tuple[np.memmap] | None:
        """The entry under a shared lock, or None (and no lock) where it is not there."""
        if not self._entry(name).is_file():
            return None
        lock = FileLock(self._lock_of(name))
        try:
            if not lock.acquire(shared=True, blocking=False):
                return None  # being removed
        except UserError:
            array = self._load(name, shape)  # of a cache that may only be read; nobody here can remove it
            return None if array is None else (array,)
        return self._protected(name, shape, lock)

    def _protected(self, name: str, shape: tuple[int, ...], lock: FileLock) -> tuple[np.memmap] | None:
        array = self._load(name, shape)
        if array is None:
            lock.release()
            return None
        with suppress(OSError):
            os.utime(self._entry(name))  # a read-only cache still serves; it only forgets what was used last
        leave = use_marks.keep(self._entry(name))
        weakref.finalize(array, _leave, lock, leave)
        return (array,)

    def _load(self, name: str, shape: tuple[int, ...]) -> np.memmap | None:
        """The entry, or None where it is missing or damaged (cut off by a copy, say): then it is built again."""
        try:
            array = np.load(self._entry(name), mmap_mode="r")
        except (FileNotFoundError, ValueError, EOFError):
            return None
        return array if isinstance(array, np.memmap) and array.shape == shape and array.dtype == np.uint8 else None

    def _build_in_turn(self, wanted: "Wanted", turn: Turn) -> tuple[np.memmap] | None:
        """Build it if it is nobody's turn; None where another process has it."""
        if not turn.take():
            return None
        try:
            ready = self._map_any(wanted)  # built between our look and our turn
            if ready is not None:
                return ready
            name, build = wanted.plan()
            lock = FileLock(self._lock_of(name))
            lock.acquire(shared=True)  # before it appears: it cannot be removed before we have it
            try:
                self._build(wanted, name, build, turn)
            except BaseException:
                lock.release()
                raise
            return self._protected(name, wanted.shape, lock)
        finally:
            turn.release()

    def _build(self, wanted: "Wanted", name: str, build: Callable[[np.ndarray], None], turn: Turn) -> None:
        for left in self.root.glob(f"{wanted.turn}.*partial"):
            left.unlink(missing_ok=True)  # by builders that died
        partial = self.root / f"{wanted.turn}.{secrets.token_hex(6)}.partial"
        try:
            self._reserve(partial, int(np.prod(wanted.shape, dtype=np.int64)) + _HEADER, name)
            array = _mapped_file(partial, wanted.shape)
            build(array)
            array.flush()
            del array
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self._entry(name))
        except FileNotFoundError as error:
            if turn.held:
                raise cannot_write(self.root, error) from error
            # This process was silent for so long that another one took its turn, and cleared its file away.
        except OSError as error:
            refusal = cannot_write(self.root, error)
            if disk_full(error) is not None:
                reason, _, mend = str(refusal).partition(". ")
                raise NoRoomError(f"{reason}.", mend) from error
            raise refusal from error
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, partial: Path, size: int, name: str) -> None:
        """Make room for `size` bytes and take them on the disk, so that filling the array cannot run out of disk."""
        if size > self.limit:
            raise NoRoomError(
                f"The frames {name} take {_gb(size)} and data.cache_gb={self.limit / GIGABYTE:g} allows less.",
                f"Type data.cache_gb={_ceil_gb(size)} (or more, for all cameras), or data.frames=stream, or use a "
                "model with smaller images.",
            )
        with FileLock(self.root / "budget.lock"):
            self._make_room(size, keep=partial)
            with partial.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)

    def _make_room(self, size: int, keep: Path) -> None:
        """Remove entries, least recently used first, until `size` more bytes fit the limit and the disk."""
        keep.unlink(missing_ok=True)
        files = {path: path.stat() for path in self._files()}
        total = sum(stat.st_size for stat in files.values())
        for path in sorted(files, key=lambda p: files[p].st_mtime):
            if total + size <= self.limit and shutil.disk_usage(self.root).free >= size:
                return
            if self._remove(path):
                total -= files[path].st_size
        free = shutil.disk_usage(self.root).free
        if free < size:
            raise self._disk_full(size, free)
        if total + size > self.limit:
            raise NoRoomError(
                f"The frame cache needs {_gb(size)} more, but of data.cache_gb={self.limit / GIGABYTE:g} "
                f"running processes use {_gb(total)}.",
                f"Type data.cache_gb={_ceil_gb(total + size)} or data.frames=stream, or wait for them to end.",
            )

    def _disk_full(self, size: int, free: int) -> NoRoomError:
        return NoRoomError(
            f"The disk of {self.root} is full: the frame cache needs {_gb(size)} ({size} bytes) and {_gb(free)} "
            f"({free} bytes) are free.",
            "Free some space, give another disk (paths.cache=<folder>), or type data.frames=stream.",
        )

    def check_disk(self, wanted: Sequence["Wanted"]) -> None:
        """Refuse arrays that cannot fit on the disk together, before the first of them is built.

        Raises:
            NoRoomError: they do not fit even if everything else in the cache went.
        """
        missing = [each for each in wanted if not any(self.has(name) for name in each.names)]
        size = sum(int(np.prod(each.shape, dtype=np.int64)) + _HEADER for each in missing)
        if not size:
            return
        folder = self.root
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        kept = sum(path.stat().st_size for path in self._files()) if self.root.is_dir() else 0
        if size > free + kept:
            raise self._disk_full(size, free)

    def _files(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.suffix in (".npy", ".partial")]

    def _remove(self, path: Path) -> bool:
        """Remove an entry that no process uses, or what a dead builder left; True if it is gone."""
        if path.suffix == ".partial":
            turn = Turn(self.root / path.name.split(".")[0])
            if not turn.take():
                return False
            path.unlink(missing_ok=True)
            turn.release()
            return True
        lock = FileLock(self._lock_of(path.stem))
        if use_marks.in_use_elsewhere(path) or not lock.acquire(blocking=False):
            return False
        try:
            path.unlink(missing_ok=True)
            lock.path.unlink(missing_ok=True)
            return True
        finally:
            lock.release()

    def _lock_of(self, name: str) -> Path:
        return self.root / f"{name}.lock"

    def _entry(self, name: str) -> Path:
        return self.root / f"{name}.npy"


def _mapped_file(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A uint8 array in the .npy file `path`, which has its size already.

    `np.lib.format.open_memmap` would cut the file off first, and give back the room that was taken on the disk.
    """
    with path.open("r+b") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, about)
        assert file.tell() == _HEADER, file.tell()
    return np.memmap(path, np.uint8, "r+", _HEADER, shape)


def _leave(lock: FileLock, leave: Callable[[], None]) -> None:
    leave()
    lock.release()


def _gb(size: int) -> str:
    return f"{size / GIGABYTE:.3g} GB"


def _ceil_gb(size: int) -> str:
    return f"{-(-size // (GIGABYTE // 10)) / 10:g}"
