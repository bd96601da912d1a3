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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from xp.merging.formats.base import BFLOAT16, Damaged, Leaf
from xp.merging.formats.chunks import ChunkStream

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
            Damaged: the metadata, an array's header or a chunk is missing or cannot be read.
        """
        self.files, self.ties = (folder,), {}
        self.tree = read_tree_metadata(folder)
        self._kvstore = _kvstore(folder)
        self._context = tensorstore.Context(_CONTEXT)
        self._headers: dict[str, dict[str, Any]] = {}
        self.leaves: dict[str, Leaf] = {}
        self._streamed: dict[str, list[str]] = {}
        """{leaf name: the keys of its chunks in order}, of leaves that are decoded as a stream."""
        self._store = self._read_headers(folder)
        self._stores: dict[str, Any] = {}
        self._local = threading.local()

    def _read_headers(self, folder: Path) -> Any:
        try:
            store = tensorstore.KvStore.open(self._kvstore, context=self._context).result()
            keys = store.list().result()
            paths = {name: self.tree.path(name) for name in self.tree.entries}
            found = {name: store.read(f"{path}/.zarray") for name, path in paths.items()}
            texts = {name: future.result().value for name, future in found.items()}
        except (ValueError, OSError) as error:
            raise Damaged(f"{folder.name} cannot be opened ({error})") from error
        counts: dict[str, int] = {}
        for key in keys:
            array = key.decode().rpartition("/")[0]
            counts[array] = counts.get(array, 0) + 1
        for name, path in paths.items():
            if not texts[name]:
                raise Damaged(f"{METADATA} lists {name}, whose array is not there")
            header = json.loads(texts[name])
            shape, chunks = tuple(header["shape"]), header["chunks"]
            wanted = math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks))
            if counts[path] - 1 < wanted and self.tree.content.get("store_array_data_equal_to_fill_value", True):
                raise Damaged(f"{name} has {counts[path] - 1} of {wanted} chunks")
            self._headers[name] = header
            self.leaves[name] = Leaf(name, shape, _dtype(header["dtype"]))
            if counts[path] - 1 == wanted and _is_streamed(header):
                rest = header.get("dimension_separator", ".") + "0"
                self._streamed[name] = [f"{path}/{i}{rest * (len(shape) - 1)}" for i in range(wanted)]
        return store

    def in_order(self, name: str) -> bool:
        """See `Reader.in_order`."""
        return name in self._streamed

    def grain(self, name: str) -> int:
        """Elements of the leading rows that one chunk holds; all of them where chunks cut other axes too."""
        if name in self._streamed:
            return 1
        shape, chunks = self.leaves[name].shape, self._headers[name]["chunks"]
        if not shape or list(chunks[1:]) != list(shape[1:]):
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
            raise Damaged(f"the data of {name} cannot be read ({str(error).splitlines()[0][:200]})") from error
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
                chunk = math.prod(self._headers[leaf.name]["chunks"]) * size
                stream = ChunkStream(self._store, self._streamed[leaf.name], chunk)
            stream.skip(start * size - stream.at)
            if len(local.get("buffer", ())) < (stop - start) * size:
                local["buffer"] = np.empty((stop - start) * size, np.uint8)
            room = local["buffer"][: (stop - start) * size]
            stream.read_into(room)
        except Damaged as error:
            raise Damaged(f"the data of {leaf.name} cannot be read ({error})") from error
        if stop < leaf.size:
            streams[leaf.name] = stream
        local["last"] = asked
        return room.view(leaf.dtype)

    def _kvstore_path(self, name: str) -> str:
        return f"{self._kvstore.get('path', '')}{self.tree.path(name)}/"


def _is_streamed(header: Mapping[str, Any]) -> bool:
    """Whether an array's values lie in their own order in zstd chunks of whole rows."""
    shape, chunks = header["shape"], header["chunks"]
    return (
        bool(shape)
        and math.prod(shape) > 0
        and (header["compressor"] or {}).get("id") == "zstd"
        and not header["filters"]
        and header["order"] == "C"
        and list(chunks[1:]) == list(shape[1:])
        and not header["dtype"].startswith(">")
    )


def read_tree_metadata(folder: Path) -> Tree:
    """Leaf names and entries of `_METADATA`.

    Raises:
        Damaged: missing, not JSON, another zarr version, or no leaves.
    """
    try:
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        listed = content["tree_metadata"]
        keys = {key: [str(part["key"]) for part in entry["key_metadata"]] for key, entry in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{METADATA} cannot be read ({type(error).__name__}: {error})") from error
    if content.get("use_zarr3"):
        raise Damaged("it is stored as zarr 3; openpi and xp write zarr 2 (Orbax's use_zarr3=False)")
    if not keys:
        raise Damaged(f"{METADATA} lists no weights")
    front = 1 if all(parts[0] == "params" and len(parts) > 1 for parts in keys.values()) else 0
    back = 1 if all(parts[-1] == "value" and len(parts) > front + 1 for parts in keys.values()) else 0
    names = {key: "/".join(parts[front : len(parts) - back]) for key, parts in keys.items()}
    return Tree(content, {names[key]: (key, listed[key]) for key in listed})


def _kvstore(folder: Path) -> dict[str, Any]:
    base = f"file://{folder.absolute()}/"
    if (folder / "manifest.ocdbt").is_file():
        return {"driver": "ocdbt", "base": base}
    return {"driver": "file", "path": f"{folder.absolute()}/"}


def _dtype(word: str) -> np.dtype:
    return BFLOAT16 if word == "bfloat16" else np.dtype(word)


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

    def grain(self, name: str) -> int:
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
