"""Orbax checkpoints (OCDBT or plain zarr), read and written leaf by leaf with tensorstore, without Orbax or JAX.

`_METADATA` names the leaves by their keys in the tree; each is a zarr array at the keys joined by '.'. openpi wraps its
weights as {"params": tree} and ends each path in "value" (an nnx state): both are left out of the names and kept in
the file. As Orbax writes it a leaf is one zstd chunk: it is decoded as a stream, from its front (`chunks`). What is
written here has chunks of a few layers, uncompressed (float weights compress by a tenth at the price of most of the
time), so the next merge reads any layer.
"""

import json
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from xp.checkpoints.arrays import BFLOAT16, SMALL_FLOATS, CorruptFileError, Leaf
from xp.checkpoints.chunk_stream import ChunkStream
from xp.foreign.json_file import DEEPEST, Fields, read_fields
from xp.foreign.paths import inside, member
from xp.foreign.text import printable
from xp.foreign.zarr_header import ArrayHeader, check_sizes, folder_bytes, read_array_header

METADATA = "_METADATA"
CHUNK_BYTES = 8 << 20
"""About how large a written chunk is; at least one row of the leading axis."""
_CONTEXT = {"file_io_sync": False, "cache_pool": {"total_bytes_limit": 0}}
"""Files are synced once, when the folder is complete."""
_HANDLER = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"


@dataclass(frozen=True)
class Tree:
    """What `_METADATA` says: for each leaf name, its entry there."""

    content: dict[str, Any]
    entries: dict[str, tuple[str, dict[str, Any]]]
    """{leaf name: (key in tree_metadata, value there)}."""

    def path(self, name: str) -> str:
        """Where the array of a leaf lies in the store."""
        return ".".join(str(part["key"]) for part in self.entries[name][1]["key_metadata"])


class OrbaxReader:
    """Headers at once, data by chunks: zstd as a stream for each thread that reads, others in tensorstore's threads."""

    def __init__(self, folder: Path) -> None:
        """Open the `params` folder of a checkpoint.

        Raises:
            RefusedError: the metadata or an array's header is no such thing, or announces what the folder's size cannot
                explain; a file in the folder is a link out of it, or no file.
            CorruptFileError: an array's header or a chunk is missing or cannot be read.
        """
        self.files, self.ties = (folder,), {}
        self.tree = read_tree_metadata(folder)
        self._kvstore = _kvstore(folder)
        self._context = tensorstore.Context(_CONTEXT)
        self._headers: dict[str, ArrayHeader] = {}
        self.leaves: dict[str, Leaf] = {}
        self._streamed: dict[str, list[str]] = {}
        """{leaf name: the keys of its chunks in order}, of leaves that are decoded as a stream."""
        self._store = self._read_headers(folder)
        self._stores: dict[str, Any] = {}
        self._local = threading.local()

    def _read_headers(self, folder: Path) -> Any:
        size = folder_bytes(folder, "a checkpoint")
        try:
            store = tensorstore.KvStore.open(self._kvstore, context=self._context).result()
            keys = store.list().result()
            paths = {name: self.tree.path(name) for name in self.tree.entries}
            found = {name: store.read(f"{path}/.zarray") for name, path in paths.items()}
            texts = {name: future.result().value for name, future in found.items()}
        except (ValueError, OSError, MemoryError) as error:
            raise CorruptFileError(f"{folder.name} cannot be opened ({printable(error)})") from error
        for name in paths:
            if not texts[name]:
                raise CorruptFileError(f"{METADATA} lists {name}, whose array is not there")
            self._headers[name] = read_array_header(texts[name], f"{folder.name}: the header of {printable(name)}")
        check_sizes(self._headers, folder, size)
        counts = Counter(key.decode("utf-8", "replace").rpartition("/")[0] for key in keys)
        for name, path in paths.items():
            self._place(name, path, counts[path] - 1)
        return store

    def _place(self, name: str, path: str, chunks: int) -> None:
        """Note the leaf whose array has `chunks` chunks, and whether it is decoded as a stream."""
        header = self._headers[name]
        wanted = header.chunk_count
        if chunks < wanted and self.tree.content.get("store_array_data_equal_to_fill_value", True):
            raise CorruptFileError(f"{name} has {chunks} of {wanted} chunks")
        self.leaves[name] = Leaf(name, header.shape, _dtype(header.word))
        if chunks == wanted and _is_streamed(header):
            rest = header.content.get("dimension_separator", ".") + "0"
            self._streamed[name] = [f"{path}/{i}{rest * (len(header.shape) - 1)}" for i in range(wanted)]

    def requires_sequential_read(self, name: str) -> bool:
        """See `Reader.requires_sequential_read`."""
        return name in self._streamed

    def alignment(self, name: str) -> int:
        """Elements of the leading rows that one chunk holds; all of them where chunks cut other axes too."""
        if name in self._streamed:
            return 1
        shape, chunks = self.leaves[name].shape, self._headers[name].chunks
        if not shape or chunks[1:] != shape[1:]:
            return max(self.leaves[name].size, 1)
        return min(chunks[0], shape[0]) * math.prod(shape[1:])

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """See `Reader.read`."""
        leaf = self.leaves[name]
        if name in self._streamed:
            return self._read_stream(leaf, start, stop)
        try:
            if name not in self._stores:
                spec = {"driver": "zarr", "kvstore": {**self._kvstore, "path": self._kvstore_path(name)}}
                self._stores[name] = tensorstore.open(spec, open=True, read=True, context=self._context).result()
            store = self._stores[name]
            if not leaf.shape:
                return np.asarray(store.read().result()).reshape(1)
            row = max(math.prod(leaf.shape[1:]), 1)
            first, last = start // row, -(-stop // row)
            rows = np.asarray(store[first:last].read().result()).reshape(-1)
        except (ValueError, OSError) as error:
            raise CorruptFileError(f"the data of {name} cannot be read ({str(error).splitlines()[0][:200]})") from error
        return rows[start - first * row : stop - first * row]

    def _read_stream(self, leaf: Leaf, start: int, stop: int) -> np.ndarray:
        """The next elements of this thread's stream of the leaf; a new stream where they are not the next ones."""
        local, size, asked = self._local.__dict__, leaf.dtype.itemsize, (leaf.name, start, stop)
        if local.get("last") == asked:  # asked again: a reference that stands in for several checkpoints
            return local["buffer"][: (stop - start) * size].view(leaf.dtype)
        streams: dict[str, ChunkStream] = local.setdefault("streams", {})
        stream, local["last"] = streams.pop(leaf.name, None), None
        try:
            if stream is None or stream.at > start * size:
                chunk = math.prod(self._headers[leaf.name].chunks) * size
                stream = ChunkStream(self._store, self._streamed[leaf.name], chunk)
            stream.skip(start * size - stream.at)
            if len(local.get("buffer", ())) < (stop - start) * size:
                local["buffer"] = np.empty((stop - start) * size, np.uint8)
            room = local["buffer"][: (stop - start) * size]
            stream.read_into(room)
        except CorruptFileError as error:
            raise CorruptFileError(f"the data of {leaf.name} cannot be read ({error})") from error
        if stop < leaf.size:
            streams[leaf.name] = stream
        local["last"] = asked
        return room.view(leaf.dtype)

    def _kvstore_path(self, name: str) -> str:
        return f"{self._kvstore.get('path', '')}{self.tree.path(name)}/"


def _is_streamed(header: ArrayHeader) -> bool:
    """Whether an array's values lie in their own order in zstd chunks of whole rows."""
    content = header.content
    return (
        bool(header.shape)
        and math.prod(header.shape) > 0
        and (content.get("compressor") or {}).get("id") == "zstd"
        and content["order"] == "C"
        and header.chunks[1:] == header.shape[1:]
        and not header.word.startswith(">")
    )


def read_tree_metadata(folder: Path) -> Tree:
    """Leaf names and entries of `_METADATA`.

    Raises:
        RefusedError: missing, not JSON, an entry without keys, or keys that would lie outside the folder.
        CorruptFileError: another zarr version, or no leaves.
    """
    content = read_fields(member(folder, METADATA, "an Orbax checkpoint's index"), "an Orbax checkpoint's index")
    listed = content.object("tree_metadata")
    keys = {key: _keys(entry) for key, entry in listed.objects()}
    if content.flag("use_zarr3", False):
        raise CorruptFileError("it is stored as zarr 3; openpi and xp write zarr 2 (Orbax's use_zarr3=False)")
    if not keys:
        raise CorruptFileError(f"{METADATA} lists no weights")
    front = 1 if all(parts[0] == "params" and len(parts) > 1 for parts in keys.values()) else 0
    back = 1 if all(parts[-1] == "value" and len(parts) > front + 1 for parts in keys.values()) else 0
    names = {key: "/".join(parts[front : len(parts) - back]) for key, parts in keys.items()}
    tree = Tree(dict(content.content), {names[key]: (key, listed.content[key]) for key in keys})
    if len(tree.entries) != len(keys):
        raise CorruptFileError(f"{METADATA} lists two arrays under one name")
    for name in tree.entries:
        inside(folder, tree.path(name), f"a name in {METADATA}")
    return tree


def _keys(entry: Fields) -> list[str]:
    """The keys of a leaf in the tree, each a name or the number of a list's item."""
    parts = entry.list_of_objects("key_metadata", most=DEEPEST)
    keys = [
        str(part.integer("key", low=0)) if isinstance(part.content.get("key"), int) else part.text("key")
        for part in parts
    ]
    if not keys or not all(key and key.isprintable() for key in keys):
        raise entry.refusal("key_metadata", "the printable names of the keys that lead to the leaf")
    return keys


def _kvstore(folder: Path) -> dict[str, Any]:
    base = f"file://{folder.absolute()}/"
    if (folder / "manifest.ocdbt").is_file():
        return {"driver": "ocdbt", "base": base}
    return {"driver": "file", "path": f"{folder.absolute()}/"}


def _dtype(word: str) -> np.dtype:
    return {dtype.name: dtype for dtype in SMALL_FLOATS}.get(word) or np.dtype(word)


def chunk_rows(leaf: Leaf) -> int:
    """Rows of the leading axis in a written chunk."""
    row = max(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize, 1)
    return max(1, min(CHUNK_BYTES // row, leaf.shape[0]))


class OrbaxWriter:
    """Writes a `params` folder that Orbax restores."""

    def __init__(self, folder: Path, leaves: Mapping[str, Leaf], tree: Tree) -> None:
        """`tree`: of the checkpoint whose structure is kept; leaves of it that are not in `leaves` are left out."""
        folder.mkdir(parents=True)
        self._leaves, self._tree = dict(leaves), tree
        self._kvstore = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/"}
        self._context = tensorstore.Context(_CONTEXT)
        self._stores: dict[str, Any] = {}
        kept = {key: _unsharded(entry) for name, (key, entry) in tree.entries.items() if name in leaves}
        content = {**tree.content, "tree_metadata": kept}
        (folder / METADATA).write_text(json.dumps(content), encoding="utf-8")
        self._stores = {name: future.result() for name, future in [(n, self._create(n)) for n in leaves]}

    def _create(self, name: str) -> Any:
        leaf = self._leaves[name]
        metadata = {
            "shape": list(leaf.shape),
            "chunks": [chunk_rows(leaf), *leaf.shape[1:]] if leaf.shape else [],
            "dtype": "bfloat16" if leaf.dtype == BFLOAT16 else leaf.dtype.str,
            "compressor": None,
            "fill_value": None,
            "filters": None,
            "order": "C",
            "dimension_separator": ".",
        }
        spec = {
            "driver": "zarr",
            "kvstore": {**self._kvstore, "path": f"{self._tree.path(name)}/"},
            "metadata": metadata,
            "store_data_equal_to_fill_value": True,
        }
        return tensorstore.open(spec, create=True, open=True, write=True, context=self._context)

    def alignment(self, name: str) -> int:
        """Elements of one chunk: smaller writes would read and rewrite it."""
        leaf = self._leaves[name]
        return chunk_rows(leaf) * math.prod(leaf.shape[1:]) if leaf.shape else 1

    def write(self, name: str, start: int, data: np.ndarray) -> None:
        """See `Writer.write`; whole rows only."""
        leaf, store = self._leaves[name], self._stores[name]
        if not leaf.shape:
            store.write(data.reshape(())).result()
            return
        row = max(math.prod(leaf.shape[1:]), 1)
        first = start // row
        rows = data.reshape(-1, *leaf.shape[1:])
        assert first * row == start and rows.size == data.size, "whole rows only"
        store[first : first + len(rows)].write(rows).result()

    def close(self) -> None:
        """Everything is committed when `write` returns."""
        self._stores = {}


def _unsharded(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A leaf's entry as that of a host array: it names no device it was once on and no shape of shards there."""
    value = {key: word for key, word in entry["value_metadata"].items() if key != "write_shape"}
    return {**entry, "value_metadata": {**value, "value_type": "np.ndarray"}}


def write_step_metadata(step_folder: Path, items: Sequence[str]) -> None:
    """Write `_CHECKPOINT_METADATA` beside `params`, as Orbax's CheckpointManager expects it."""
    content = {"item_handlers": {item: _HANDLER for item in items}, "metrics": {}, "performance_metrics": {}}
    content |= {"init_timestamp_nsecs": None, "commit_timestamp_nsecs": None, "custom_metadata": {}}
    (step_folder / "_CHECKPOINT_METADATA").write_text(json.dumps(content), encoding="utf-8")
