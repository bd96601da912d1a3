"""The content of a large dataset in RLDS, read once on a machine: files of plain columns that all processes map.

Two entries of a `CacheStore`: how many steps each episode has, from which the size of the other follows, and the
columns. Their names hold a hash of the files' names, sizes, times and inodes and of what was told, so a dataset that
was changed or copied is read anew. Where nothing can be written, the content is in memory.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xp.data.cache_store import CacheStore, Wanted
from xp.data.column_files import Columns, Layout, entry_name, fill, folder_state, kept_or_read, num_bytes, views
from xp.data.rlds.content import Content

_FORMAT = 1
"""Counted up when the layout, what is checked or the digest changes."""
_DIGITS = 64


def mapped_content(
    root: Path,
    files: Sequence[Path],
    told: object,
    dims: tuple[int, int, int],
    episodes: int,
    read: Callable[[], Content],
    store: CacheStore,
) -> Content:
    """The content of a dataset, mapped; read first where no process has.

    Args:
        root: the dataset.
        files: all files that it depends on.
        told: what else it depends on, as JSON has it.
        dims: widths of action and state, and the number of cameras.
        episodes: how many are announced.
        read: reads the files.
        store: where the entries are or will be.

    Raises:
        UserError: what `read` raises.
    """

    def mapped(state: str, content: Callable[[], Content]) -> Content:
        lengths = entry_name(root, "lengths", state)
        index = _entry(store, lengths, _index_layout(episodes), lambda: _index(content(), episodes))
        found = _entry(store, entry_name(root, "steps", state), _layout(index, dims), lambda: _columns(content()))
        return _content(index, found)

    return kept_or_read(lambda: folder_state(root, files, json.dumps([_FORMAT, told])), read, mapped)


def _entry(store: CacheStore, name: str, layout: Layout, values: Callable[[], Columns]) -> dict[str, np.ndarray]:
    """The arrays of an entry, on the file's memory."""

    def plan() -> tuple[str, Callable[[np.ndarray], None]]:
        given = values()  # before room is taken for it: what is announced may be wrong
        return name, lambda blob: fill(blob, layout, given)

    return views(store.open_all([Wanted(name, (name,), (num_bytes(layout),), plan)])[0], layout)


def _index_layout(episodes: int) -> Layout:
    return {"lengths": (np.int64, (episodes,)), "text_bytes": (np.int64, (1,))}


def _index(content: Content, episodes: int) -> dict[str, np.ndarray]:
    lengths = np.zeros(episodes, np.int64)
    lengths[: len(content.lengths)] = content.lengths
    return {"lengths": lengths, "text_bytes": np.array([len(_texts(content))])}


def _layout(index: Mapping[str, np.ndarray], dims: tuple[int, int, int]) -> Layout:
    rows, episodes = int(index["lengths"].sum()), int((index["lengths"] > 0).sum())
    action, state, cameras = dims
    return {
        "file": (np.int64, (episodes,)),
        "task_index": (np.int64, (episodes,)),
        "action": (np.float32, (rows, action)),
        "state": (np.float32, (rows, state)),
        "spans": (np.int64, (rows, cameras, 2)),
        "digest": (np.uint8, (_DIGITS,)),
        "texts": (np.uint8, (int(index["text_bytes"][0]),)),
    }


def _columns(content: Content) -> dict[str, np.ndarray]:
    return {
        "file": content.file,
        "task_index": content.task_index,
        "action": content.action,
        "state": content.state,
        "spans": content.spans,
        "digest": np.frombuffer(content.digest.encode(), np.uint8),
        "texts": np.frombuffer(_texts(content), np.uint8),
    }


def _content(index: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> Content:
    return Content(
        lengths=index["lengths"][index["lengths"] > 0],
        file=found["file"],
        task_index=found["task_index"],
        action=found["action"],
        state=found["state"],
        spans=found["spans"],
        tasks=tuple(json.loads(found["texts"].tobytes())),
        digest=found["digest"].tobytes().decode(),
    )


def _texts(content: Content) -> bytes:
    return json.dumps(content.tasks).encode()
