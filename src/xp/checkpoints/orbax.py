"""Orbax checkpoints (OCDBT or plain zarr), read and written leaf by leaf with tensorstore, without Orbax or JAX.

`_METADATA` names the leaves by their keys in the tree; each is a zarr array at the keys joined by '.'. Some programs
wrap the weights as {"params": tree} and end each path in "value" (an nnx state): both are left out of the names and
kept in the file. As Orbax writes it a leaf is one zstd chunk: it is decoded as a stream, from its front
(`chunk_stream`). What is written here has chunks of a few layers, uncompressed (float weights compress by a tenth at
the price of most of the time), so the next merge reads any layer.
"""

import json
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorstore

from xp.checkpoints.arrays import BFLOAT16, AnyArray, CorruptFileError, Leaf, dtype_named
from xp.checkpoints.chunk_stream import ChunkStream, PlainChunks
from xp.foreign.json_file import DEEPEST, Fields, read_fields
from xp.foreign.paths import inside, member
from xp.foreign.text import printable
from xp.foreign.zarr_header import ArrayHeader, check_sizes, folder_bytes, read_array_header
from xp.json_types import JSON, JSONObject

METADATA = "_METADATA"
CHUNK_BYTES = 8 << 20
"""About how large a written chunk is (see `chunk_shape`)."""
_CONTEXT = {
    "file_io_sync": False,
    "cache_pool": {"total_bytes_limit": 0},
    "cache_pool#index": {"total_bytes_limit": 16 << 20},
}
"""Files are synced once, when the folder is complete; of what is read the index of an OCDBT store alone is kept."""
_WRITE_CONTEXT = {**_CONTEXT, "data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}
"""Callers write from threads of their own. Each of tensorstore's keeps a freed chunk or two, in an arena of its own."""
_HANDLER = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"


@dataclass(frozen=True)
class Tree:
    """What `_METADATA` says: for each leaf name, its entry there."""

    content: dict[str, JSON]
    entries: dict[str, "TreeEntry"]
    """By the name of the leaf."""

    def path(self, name: str) -> str:
        """Where the array of a leaf lies in the store."""
        return ".".join(self.entries[name].parts)


class TreeEntry(NamedTuple):
    """A leaf in `_METADATA`: its key in `tree_metadata`, the keys that lead to it, and what stands there."""

    key: str
    parts: list[str]
    content: JSONObject


class OrbaxReader:
    """Headers at once, data by chunks: zstd as a stream for each thread that reads, ranges of plain ones as they are.

    Chunks that are no ranges of the flattened array, big-endian or missing ones are tensorstore's to read.
    """

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
        self._plain: dict[str, list[str]] = {}
        """The same, of leaves whose chunks are the flattened array, cut up."""
        self._store = self._read_headers(folder)
        self._stores: dict[str, tensorstore.TensorStore] = {}
        self._local = threading.local()

    def _read_headers(self, folder: Path) -> tensorstore.KvStore:
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
        self.leaves[name] = Leaf(name, header.shape, dtype_named(header.word))
        if chunks == wanted and _is_flat(header):
            whole_rows = header.chunks[1:] == header.shape[1:]
            if header.content.get("compressor") is None:
                self._plain[name] = _chunk_keys(path, header)
            elif whole_rows and header.content["compressor"]["id"] == "zstd":
                self._streamed[name] = _chunk_keys(path, header)

    def requires_sequential_read(self, name: str) -> bool:
        """See `Reader.requires_sequential_read`."""
        return name in self._streamed

    def alignment(self, name: str) -> int:
        """Elements of one chunk where chunks follow one another; else of the leading rows that chunks share."""
        if name in self._streamed:
            return 1
        shape, chunks = self.leaves[name].shape, self._headers[name].chunks
        if not shape:
            return 1
        axis = _cut_axis(shape, chunks) or 0
        return max(min(chunks[axis], shape[axis]) * math.prod(shape[axis + 1 :]), 1)

    def read(self, name: str, start: int, stop: int) -> AnyArray:
        """See `Reader.read`."""
        leaf = self.leaves[name]
        if name in self._streamed:
            return self._read_stream(leaf, start, stop)
        if name in self._plain:
            return self._read_plain(leaf, start, stop)
        try:
            if name not in self._stores:
                spec = {"driver": "zarr", "kvstore": {**self._kvstore, "path": self._kvstore_path(name)}}
                self._stores[name] = tensorstore.open(spec, open=True, read=True, context=self._context).result()
            store = self._stores[name]
            if not leaf.shape:
                return np.asarray(store.read().result()).reshape(1)
            axis = _cut_axis(leaf.shape, self._headers[name].chunks) or 0
            box, first = _box(leaf.shape, axis, start, stop)
            rows = np.asarray(store[box].read().result()).reshape(-1)
        except (ValueError, OSError) as error:
            raise CorruptFileError(f"the data of {name} cannot be read ({str(error).splitlines()[0][:200]})") from error
        return rows[start - first : stop - first]

    def _read_stream(self, leaf: Leaf, start: int, stop: int) -> AnyArray:
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
            room = self._room((stop - start) * size)
            stream.read_into(room)
        except CorruptFileError as error:
            raise CorruptFileError(f"the data of {leaf.name} cannot be read ({error})") from error
        if stop < leaf.size:
            streams[leaf.name] = stream
        local["last"] = asked
        return room.view(leaf.dtype)

    def _read_plain(self, leaf: Leaf, start: int, stop: int) -> AnyArray:
        size = leaf.dtype.itemsize
        chunks = PlainChunks(self._store, self._plain[leaf.name], math.prod(self._headers[leaf.name].chunks) * size)
        try:
            return chunks.read(start * size, stop * size, self._room).view(leaf.dtype)
        except CorruptFileError as error:
            raise CorruptFileError(f"the data of {leaf.name} cannot be read ({error})") from error

    def _room(self, count: int) -> AnyArray:
        """Bytes of this thread's buffer."""
        local = self._local.__dict__
        local["last"] = None
        if len(local.get("buffer", ())) < count:
            local["buffer"] = np.empty(count, np.uint8)
        return local["buffer"][:count]

    def _kvstore_path(self, name: str) -> str:
        return f"{self._kvstore.get('path', '')}{self.tree.path(name)}/"


def _is_flat(header: ArrayHeader) -> bool:
    """Whether an array's values lie in their own order in chunks that follow one another."""
    shape, chunks = header.shape, header.chunks
    axis = _cut_axis(shape, chunks) if shape and math.prod(shape) > 0 else None
    return (
        axis is not None
        and chunks[axis + 1 :] == shape[axis + 1 :]
        and header.content["order"] == "C"
        and not header.word.startswith(">")
    )


def _chunk_keys(path: str, header: ArrayHeader) -> list[str]:
    """The keys of an array's chunks, in C order."""
    grid = [-(-length // chunk) for length, chunk in zip(header.shape, header.chunks)]
    between = header.content.get("dimension_separator", ".")
    return [f"{path}/{between.join(map(str, index))}" for index in np.ndindex(*grid)]


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
        raise CorruptFileError("it is stored as zarr 3, and zarr 2 is read here (Orbax writes it with use_zarr3=False)")
    if not keys:
        raise CorruptFileError(f"{METADATA} lists no weights")
    front = 1 if all(parts[0] == "params" and len(parts) > 1 for parts in keys.values()) else 0
    back = 1 if all(parts[-1] == "value" and len(parts) > front + 1 for parts in keys.values()) else 0
    names = {key: "/".join(parts[front : len(parts) - back]) for key, parts in keys.items()}
    entries = {names[key]: TreeEntry(key, parts, listed.object(key).content) for key, parts in keys.items()}
    tree = Tree(dict(content.content), entries)
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


def _kvstore(folder: Path) -> dict[str, str]:
    if (folder / "manifest.ocdbt").is_file():
        return _ocdbt(folder)
    return {"driver": "file", "path": f"{folder.absolute()}/"}


def _ocdbt(folder: Path) -> dict[str, str]:
    return {"driver": "ocdbt", "base": f"file://{folder.absolute()}/", "cache_pool": "cache_pool#index"}


def chunk_shape(leaf: Leaf) -> tuple[int, ...]:
    """The chunks that a leaf is written in: about `CHUNK_BYTES`, and each a range of the flattened array.

    So they hold rows of the leading axis; where one row is larger, an equal part of it along the next axis that allows
    it, and of one index of the axes before (all of that axis where only slivers would be equal).
    """
    shape = leaf.shape
    for axis in range(len(shape)):
        inner = max(math.prod(shape[axis + 1 :]) * leaf.dtype.itemsize, 1)
        most = min(CHUNK_BYTES // inner, shape[axis])
        if axis and most:
            most = next(count for count in range(most, 0, -1) if shape[axis] % count == 0)
            most = shape[axis] if most * inner < CHUNK_BYTES // 64 else most
        if most:
            return (*[1] * axis, most, *shape[axis + 1 :])
    return (1, *shape[1:])


def _cut_axis(shape: Sequence[int], chunks: Sequence[int]) -> int | None:
    """The axis that chunks cut where each is a range of the flattened array; None where they are none."""
    axis = next((i for i, length in enumerate(chunks) if length > 1), len(shape) - 1)
    whole = all(chunk >= length for chunk, length in zip(chunks[axis + 1 :], shape[axis + 1 :]))
    return axis if whole and (axis == 0 or shape[axis] % chunks[axis] == 0) else None


def _box(shape: Sequence[int], axis: int, start: int, stop: int) -> tuple[tuple[int | slice, ...], int]:
    """The smallest part of an array, cut along `axis` or an axis before, that holds a range of its elements.

    Returns:
        Its index, and the number of its first element.
    """
    while True:
        inner = max(math.prod(shape[axis + 1 :]), 1)
        outer = inner * shape[axis]
        if axis == 0 or start // outer == (stop - 1) // outer:
            break
        axis -= 1
    before, rest = divmod(start, outer) if axis else (0, start)
    leading = tuple(int(i) for i in np.unravel_index(before, shape[:axis])) if axis else ()
    first, last = rest // inner, -(-(stop - before * outer) // inner)
    return (*leading, slice(first, last)), before * outer + first * inner


class OrbaxWriter:
    """Writes a `params` folder that Orbax restores."""

    def __init__(self, folder: Path, leaves: Mapping[str, Leaf], tree: Tree) -> None:
        """`tree`: of the checkpoint whose structure is kept; leaves of it that are not in `leaves` are left out."""
        folder.mkdir(parents=True)
        self._leaves, self._tree = dict(leaves), tree
        self._kvstore = _ocdbt(folder)
        self._context = tensorstore.Context(_WRITE_CONTEXT)
        kept: dict[str, JSON] = {e.key: _unsharded(e.content) for name, e in tree.entries.items() if name in leaves}
        content = {**tree.content, "tree_metadata": kept}
        (folder / METADATA).write_text(json.dumps(content), encoding="utf-8")
        created = [(name, self._create(name)) for name in leaves]
        self._stores: dict[str, tensorstore.TensorStore] = {name: future.result() for name, future in created}

    def _create(self, name: str) -> tensorstore.Future[tensorstore.TensorStore]:
        leaf = self._leaves[name]
        metadata = {
            "shape": list(leaf.shape),
            "chunks": list(chunk_shape(leaf)) if leaf.shape else [],
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
        return max(math.prod(chunk_shape(self._leaves[name])), 1)

    def write(self, name: str, start: int, data: AnyArray) -> None:
        """See `Writer.write`; whole chunks only (see `alignment`), or up to the end."""
        leaf, store = self._leaves[name], self._stores[name]
        if not leaf.shape:
            store.write(data.reshape(())).result()
            return
        axis, stop = _cut_axis(leaf.shape, chunk_shape(leaf)) or 0, start + data.size
        chunk = self.alignment(name) if axis else max(leaf.size, 1)  # rows of the leading axis are written at once
        writing: list[tensorstore.WriteFutures] = []
        at = start
        while at < stop:
            end = min(stop, (at // chunk + 1) * chunk)
            box, first = _box(leaf.shape, axis, at, end)
            target = store[box]
            assert first == at and math.prod(target.shape) == end - at, "whole rows only"
            writing.append(target.write(data[at - start : end - start].reshape(target.shape)))
            at = end
        for future in writing:
            future.result()

    def close(self) -> None:
        """Everything is committed when `write` returns."""
        self._stores = {}


def _unsharded(entry: JSONObject) -> dict[str, JSON]:
    """A leaf's entry as that of a host array: it names no device it was once on and no shape of shards there."""
    said = entry["value_metadata"]
    value = {key: word for key, word in said.items() if key != "write_shape"} if isinstance(said, Mapping) else {}
    return {**entry, "value_metadata": {**value, "value_type": "np.ndarray"}}


def write_step_metadata(step_folder: Path, items: Sequence[str]) -> None:
    """Write `_CHECKPOINT_METADATA` beside `params`, as Orbax's CheckpointManager expects it."""
    content = {"item_handlers": {item: _HANDLER for item in items}, "metrics": {}, "performance_metrics": {}}
    content |= {"init_timestamp_nsecs": None, "commit_timestamp_nsecs": None, "custom_metadata": {}}
    (step_folder / "_CHECKPOINT_METADATA").write_text(json.dumps(content), encoding="utf-8")
