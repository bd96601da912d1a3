"""The content of a large dataset in RLDS, read once on a machine: files of plain columns that all processes map.

Two entries of a `CacheStore`: how many steps each episode has, from which the size of the other follows, and the
columns. Their names hold a hash of the files' names, sizes, times and inodes and of what was told, so a dataset that
was changed or copied is read anew. Where nothing can be written, the content is in memory.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xp.data.cache_store import CacheStore, Wanted
from xp.data.rlds.content import Content
from xp.errors import UserError

SMALL = 64_000_000
"""Bytes of files below which nothing is gained."""
_FORMAT = 1
"""Counted up when the layout, what is checked or the digest changes."""
_ALIGN = 64
_DIGITS = 64

Layout = Mapping[str, tuple[type, tuple[int, ...]]]


class _ChangedError(Exception):
    """The files were written to while they were read."""


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
    state = _state(root, files, told)
    kept: list[Content] = []
    refused: list[UserError] = []

    def content() -> Content:
        if not kept:
            try:
                kept.append(read())
            except UserError as error:
                refused.append(error)
                raise
            if _state(root, files, told) != state:
                raise _ChangedError
        return kept[0]

    if state is None:
        return read()  # says what is missing
    name = f"{''.join(c if c.isalnum() else '-' for c in root.resolve().name[:40])}_{state}"
    try:
        index = _entry(store, f"{name}_lengths", _index_layout(episodes), lambda: _index(content(), episodes))
        found = _entry(store, f"{name}_steps", _layout(index, dims), lambda: _columns(content()))
    except _ChangedError:
        return kept[0]
    except UserError:
        if refused:
            raise
        return kept[0] if kept else read()
    return _content(index, found)


def _entry(
    store: CacheStore, name: str, layout: Layout, values: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of an entry, on the file's memory."""

    def plan() -> tuple[str, Callable[[np.ndarray], None]]:
        given = values()  # before room is taken for it: what is announced may be wrong
        return name, lambda blob: _fill(_views(blob, layout), given)

    blob = store.open_all([Wanted(name, (name,), (_num_bytes(layout),), plan)])[0]
    return _views(np.asarray(blob), layout)


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


def _state(root: Path, files: Sequence[Path], told: object) -> str | None:
    """20 hex digits that change whenever a file is written or replaced; None where one is missing."""
    digest = hashlib.sha256(json.dumps([_FORMAT, told]).encode())
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            return None
        identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(f"\n{os.path.relpath(path, root)}\0{identity}".encode())
    return digest.hexdigest()[:20]


def _num_bytes(layout: Layout) -> int:
    return sum(_padded(kind, shape) for kind, shape in layout.values())


def _padded(kind: type, shape: tuple[int, ...]) -> int:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    return -(-size // _ALIGN) * _ALIGN


def _views(blob: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    found, at = dict[str, np.ndarray](), 0
    for name, (kind, shape) in layout.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        found[name] = blob[at : at + size].view(kind).reshape(shape)
        at += _padded(kind, shape)
    return found


def _fill(views: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    for name, view in views.items():
        assert view.shape == given[name].shape, (name, view.shape, given[name].shape)
        view[...] = given[name]
