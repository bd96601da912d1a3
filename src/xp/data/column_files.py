"""Plain columns in the entries of a `CacheStore`: one process reads a dataset and writes them, all others map them.

An entry's name holds a hash of every file's name, size, times and inode, so a changed or copied dataset is read anew.
Where nothing can be kept, what was read is in memory.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xp.errors import UserError

SMALL = 64_000_000
"""Bytes below which nothing is gained."""
_ALIGN = 64

Columns = Mapping[str, np.ndarray]
Layout = Mapping[str, tuple[type, tuple[int, ...]]]
"""{column: (type, shape)} in the order of the file."""


class _ChangedError(Exception):
    """The dataset was written to while it was read."""


def kept_or_read[Content](
    state: Callable[[], str | None],
    read: Callable[[], Content],
    mapped: Callable[[str, Callable[[], Content]], Content],
) -> Content:
    """What `mapped` gives, or what was read where nothing can be kept.

    Args:
        state: names what the files are now; None where one is missing.
        read: reads them; asked once.
        mapped: opens the entries of a state, and reads what is not there by the function that it is given.

    Raises:
        UserError: what `read` raises.
    """
    before = state()
    if before is None:
        return read()  # says what is missing
    kept: list[Content] = []
    refused: list[UserError] = []

    def once() -> Content:
        if not kept:
            try:
                kept.append(read())
            except UserError as error:
                refused.append(error)
                raise
            if state() != before:
                raise _ChangedError
        return kept[0]

    try:
        return mapped(before, once)
    except _ChangedError:
        return kept[0]
    except UserError:
        if refused:
            raise
        return kept[0] if kept else read()


def folder_state(root: Path, files: Sequence[Path], about: str) -> str | None:
    """20 hex digits that change with `about` and whenever a file is written or replaced; None where one is missing."""
    digest = hashlib.sha256(about.encode())
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


def entry_name(root: Path, what: str, state: str) -> str:
    """What an entry of a dataset is called: readable, and as unique as its state."""
    return f"{''.join(c if c.isalnum() else '-' for c in root.resolve().name[:40])}_{what}_{state}"


def num_bytes(columns: Layout) -> int:
    """Bytes of the file of a layout, without its header."""
    return sum(_padded(kind, shape) for kind, shape in columns.values())


def views(blob: np.ndarray, columns: Layout) -> dict[str, np.ndarray]:
    """The columns as plain arrays on the file's memory: they keep its entry from being removed."""
    memory, found, at = np.asarray(blob), dict[str, np.ndarray](), 0
    for name, (kind, shape) in columns.items():
        found[name] = memory[at : at + _size(kind, shape)].view(kind).reshape(shape)
        at += _padded(kind, shape)
    return found


def fill(blob: np.ndarray, columns: Layout, values: Columns) -> None:
    """Write the columns that there are; a layout's others stay as they are."""
    for name, view in views(blob, columns).items():
        value = values.get(name)
        if value is not None and view.size:
            assert value.shape == view.shape and value.dtype == view.dtype, (name, value.shape, value.dtype)
            view[...] = value


def _size(kind: type, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize


def _padded(kind: type, shape: tuple[int, ...]) -> int:
    return -(-_size(kind, shape) // _ALIGN) * _ALIGN
