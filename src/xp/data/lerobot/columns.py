"""A folder's numbers decoded once on a machine: one file of plain columns, mapped read-only by all of its processes.

The file is an entry of a `CacheStore`: one process decodes, checks and writes it, the others wait and map it. Its name
is a hash of every file's name, size, times and inode, so a changed or copied dataset is decoded anew. Small datasets,
and those that no cache has room for, are arrays in memory as without a cache.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xp.data.cache_store import CacheStore, Wanted
from xp.errors import UserError

_FORMAT = 2
"""Counted up when the layout, the checks of rows or the fingerprint change."""
SMALL = 64_000_000
"""Bytes of numbers below which nothing is gained."""
_ALIGN = 64
_ABOUT = "about"
_DIGITS = 64
"""Of a digest; the byte after the last says whether rows have timestamps of their own."""

Columns = Mapping[str, np.ndarray]
Layout = Mapping[str, tuple[type, tuple[int, ...]]]


def layout(rows: int, episodes: int, dims: Mapping[str, int], *, timed: bool, digests: int = 1) -> Layout:
    """{column: (type, shape)} in the order of the file; `dims` are the widths of the vectors."""
    found: dict[str, tuple[type, tuple[int, ...]]] = {name: (np.float32, (rows, dim)) for name, dim in dims.items()}
    found |= {name: (np.int64, (rows,)) for name in ("episode_index", "frame_index", "task_index")}
    found |= {name: (np.int64, (episodes,)) for name in ("starts", "lengths")}
    return {**found, "timestamp": (np.float64, (rows if timed else 0,)), _ABOUT: (np.uint8, (_DIGITS * digests + 1,))}


def num_bytes(columns: Layout) -> int:
    """Bytes of the file of a layout, without its header."""
    return sum(_padded(kind, shape) for kind, shape in columns.values())


def mapped_columns(
    root: Path,
    files: Sequence[Path],
    columns: Layout,
    read: Callable[[], tuple[Columns, str]],
    store: CacheStore,
) -> tuple[Columns, str]:
    """The columns of a folder and its digests, one behind the other, mapped; decoded first where no process has.

    Args:
        root: the folder.
        files: all files that the numbers, the tasks and the digests depend on.
        columns: what is to be found in them.
        read: decodes and checks them, and computes the digests.
        store: where the file is or will be.

    Raises:
        UserError: what `read` raises. Where the cache has no room or cannot be written, the arrays are in memory.
    """
    state = _state(root, files)
    if state is None:
        return read()  # says what is missing
    kept: list[tuple[Columns, str]] = []
    refused: list[UserError] = []

    def plan() -> tuple[str, Callable[[np.ndarray], None]]:
        try:
            kept.append(read())
        except UserError as error:
            refused.append(error)
            raise
        if _state(root, files) != state:
            raise _ChangedError
        return name, lambda blob: _fill(blob, columns, *kept[0])

    name = f"{''.join(c if c.isalnum() else '-' for c in root.resolve().name[:40])}_numbers_{state}"
    try:
        blob = store.open_all([Wanted(name, (name,), (num_bytes(columns),), plan)])[0]
    except _ChangedError:
        return kept[0]
    except UserError:
        if refused:
            raise
        return kept[0] if kept else read()
    return _views(blob, columns)


class _ChangedError(Exception):
    """The folder was written to while it was read."""


def _state(root: Path, files: Sequence[Path]) -> str | None:
    """20 hex digits that change whenever a file is written or replaced; None where one is missing."""
    digest = hashlib.sha256(f"numbers {_FORMAT}".encode())
    inside = f"{root}{os.sep}"
    for path in map(str, files):  # a hundred thousand of them where each episode has its own
        try:
            stat = os.stat(path)  # noqa: PTH116
        except OSError:
            return None
        where = path.removeprefix(inside)
        identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(f"\n{where}\0{identity}".encode())
    return digest.hexdigest()[:20]


def _padded(kind: type, shape: tuple[int, ...]) -> int:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    return -(-size // _ALIGN) * _ALIGN


def _views(blob: np.ndarray, columns: Layout) -> tuple[Columns, str]:
    """The columns as plain arrays on the file's memory: they keep its entry from being removed."""
    memory, found, at = np.asarray(blob), dict[str, np.ndarray](), 0
    for name, (kind, shape) in columns.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        found[name] = memory[at : at + size].view(kind).reshape(shape)
        at += _padded(kind, shape)
    about = found.pop(_ABOUT)
    if not about[-1]:
        del found["timestamp"]
    return found, about[:-1].tobytes().decode()


def _fill(blob: np.ndarray, columns: Layout, values: Columns, digests: str) -> None:
    at = 0
    about = np.frombuffer(digests.encode() + bytes(["timestamp" in values]), np.uint8)
    for name, (kind, shape) in columns.items():
        value = about if name == _ABOUT else values.get(name)
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        if value is not None and size:
            assert value.shape == shape and value.dtype == kind, (name, value.shape, value.dtype)
            blob[at : at + size].view(kind).reshape(shape)[...] = value
        at += _padded(kind, shape)
