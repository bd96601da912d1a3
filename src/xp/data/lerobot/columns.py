"""A folder's numbers decoded once on a machine: one file of plain columns, mapped read-only by all of its processes.

The file is an entry of a `CacheStore`: one process decodes, checks and writes it, the others wait and map it. Its name
is a hash of every file's name, size, times and inode, so a changed or copied dataset is decoded anew. Small datasets,
and those that no cache has room for, are arrays in memory as without a cache.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xp.data.cache_store import CacheStore, Wanted
from xp.data.column_files import Columns, Layout, entry_name, fill, folder_state, kept_or_read, num_bytes, views

_FORMAT = 2
"""Counted up when the layout, the checks of rows or the fingerprint change."""
_ABOUT = "about"
_DIGITS = 64
"""Of a digest; the byte after the last says whether rows have timestamps of their own."""


def layout(rows: int, episodes: int, dims: Mapping[str, int], *, timed: bool, digests: int = 1) -> Layout:
    """{column: (type, shape)} in the order of the file; `dims` are the widths of the vectors."""
    found: dict[str, tuple[type, tuple[int, ...]]] = {name: (np.float32, (rows, dim)) for name, dim in dims.items()}
    found |= {name: (np.int64, (rows,)) for name in ("episode_index", "frame_index", "task_index")}
    found |= {name: (np.int64, (episodes,)) for name in ("starts", "lengths")}
    return {**found, "timestamp": (np.float64, (rows if timed else 0,)), _ABOUT: (np.uint8, (_DIGITS * digests + 1,))}


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

    def mapped(state: str, content: Callable[[], tuple[Columns, str]]) -> tuple[Columns, str]:
        name = entry_name(root, "numbers", state)

        def plan() -> tuple[str, Callable[[np.ndarray], None]]:
            values, digests = content()
            about = np.frombuffer(digests.encode() + bytes(["timestamp" in values]), np.uint8)
            return name, lambda blob: fill(blob, columns, {**values, _ABOUT: about})

        return _content(store.open_all([Wanted(name, (name,), (num_bytes(columns),), plan)])[0], columns)

    return kept_or_read(lambda: folder_state(root, files, f"numbers {_FORMAT}"), read, mapped)


def _content(blob: np.ndarray, columns: Layout) -> tuple[Columns, str]:
    found = views(blob, columns)
    about = found.pop(_ABOUT)
    if not about[-1]:
        del found["timestamp"]
    return found, about[:-1].tobytes().decode()
