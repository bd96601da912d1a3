"""Flax's msgpack files: indexed without reading their data, read in ranges or whole, and written.

Files are those of `flax.serialization`: nested maps whose leaves are extension type 1, a list of shape, dtype name and
bytes (the msgpack specification; flax.serialization._ndarray_to_bytes). The index skips over the data, so a checkpoint
of any size opens at once, a cut or foreign one is noticed before anything is read, and it is read in ranges like a
safetensors file.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
from numpy.typing import ArrayLike

from xp.checkpoints.arrays import AnyArray, CorruptFileError, Leaf, dtype_named
from xp.checkpoints.flat_file import Extent, FlatReader, FlatWriter
from xp.foreign.flax_msgpack import Array, Scalar, scan
from xp.json_types import JSON

type FlaxTree = (
    dict[str, FlaxTree] | list[FlaxTree] | AnyArray | np.generic | None | bool | int | float | complex | str | bytes
)
"""A whole msgpack tree in memory."""
type ArrayTree = ArrayLike | Mapping[str, ArrayTree]
"""Nested dicts of arrays, to be written."""

WEIGHTS = "a checkpoint's weights"
"""What such a file is, for messages."""
_ARRAY = 1
_EXT_LENGTHS = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
_BIN_LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def open_msgpack(file: Path, what: str = WEIGHTS) -> FlatReader:
    """The arrays of a msgpack tree by path, joined by '/'.

    Args:
        file: the file.
        what: what it is, for messages.

    Raises:
        RefusedError: the file is cut short or is no Flax tree.
        CorruptFileError: it holds something besides arrays, or nothing.
    """
    extents: dict[str, Extent] = {}
    for path, node in _nodes(scan(file, what), (dict,)):
        name = "/".join(path)
        if not isinstance(node, Array) or not path:
            raise CorruptFileError(f"{file.name} holds {type(node).__name__} at {name!r}, where arrays are expected")
        extents[name] = _extent(name, node)
    if not extents:
        raise CorruptFileError(f"{file.name} holds no arrays")
    return FlatReader((file,), extents)


def read_tree(file: Path, what: str = WEIGHTS) -> FlaxTree:
    """The tree of a msgpack file as nested dicts of numpy arrays, with whatever else it holds.

    Args:
        file: the file.
        what: what it is, for messages.

    Raises:
        MissingError: the file is not there.
        RefusedError: cut short, or not a msgpack tree as Flax writes it.
        CorruptFileError: it became shorter while it was read.
    """
    tree = scan(file, what)
    arrays = {"/".join(path): node for path, node in _nodes(tree, (dict, list)) if isinstance(node, Array)}
    return _filled(tree, (), FlatReader((file,), {name: _extent(name, node) for name, node in arrays.items()}).load())


def _filled(node: Any, path: tuple[str, ...], arrays: Mapping[str, AnyArray]) -> FlaxTree:
    if isinstance(node, dict):
        return {name: _filled(child, (*path, name), arrays) for name, child in node.items()}
    if isinstance(node, list):
        return [_filled(child, (*path, str(number)), arrays) for number, child in enumerate(node)]
    if isinstance(node, Scalar):
        return np.frombuffer(node.data, dtype_named(node.word))[0]
    return arrays["/".join(path)] if isinstance(node, Array) else node


def _nodes(node: Any, into: tuple[type, ...], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, what is there) for everything in a tree that is none of the types `into`."""
    if not isinstance(node, into):
        yield path, node
        return
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _nodes(child, into, (*path, str(key)))


def _extent(name: str, array: Array) -> Extent:
    return Extent(Leaf(name, array.shape, dtype_named(array.word)), 0, array.offset)


def create_msgpack(folder: Path, leaves: Mapping[str, Leaf]) -> FlatWriter:
    """Write everything but the data into `checkpoint` and set its size; the data goes through the answer."""
    folder.mkdir(parents=True)
    file = folder / "checkpoint"
    tree: dict[str, Any] = {}
    for leaf in leaves.values():
        *parents, last = leaf.name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    extents: dict[str, Extent] = {}

    def skip(handle: BinaryIO, leaf: Leaf) -> None:
        extents[leaf.name] = Extent(leaf, 0, handle.tell())
        handle.seek(leaf.nbytes, 1)

    with file.open("xb") as handle:
        _write(handle, tree, msgpack.Packer(), skip)
        handle.truncate()
    return FlatWriter((file,), extents)


def write_tree(path: Path, tree: Mapping[str, ArrayTree]) -> int:
    """Write nested mappings of arrays as `flax.serialization.msgpack_serialize` would (keys sorted).

    Returns:
        The number of bytes.

    Raises:
        ValueError: an array has more bytes than msgpack can say.
    """
    with path.open("wb") as handle:
        _write(handle, tree, msgpack.Packer(), _put)
        return handle.tell()


def _put(handle: BinaryIO, array: AnyArray) -> None:
    handle.write(array.reshape(-1).view(np.uint8).data if array.size else b"")


def _write(handle: BinaryIO, node: Any, packer: msgpack.Packer, put: Callable[[BinaryIO, Any], None]) -> None:
    """Write a tree with its keys sorted; `put` does the data of an array, or passes over it."""
    if isinstance(node, Mapping):
        handle.write(packer.pack_map_header(len(node)))
        for key, child in sorted(node.items()):
            handle.write(packer.pack(key))
            _write(handle, child, packer, put)
        return
    leaf = node if isinstance(node, Leaf) else _contiguous(node)
    front = b"\x93" + packer.pack(list(leaf.shape)) + packer.pack(leaf.dtype.name) + _binary(leaf.nbytes)
    handle.write(_extension(len(front) + leaf.nbytes) + front)
    put(handle, leaf)


def _contiguous(value: ArrayLike) -> AnyArray:
    array = np.asarray(value)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _binary(size: int) -> bytes:
    return _sized(size, _BIN_LENGTHS)


def _extension(size: int) -> bytes:
    code = next((code for code, length in _FIXED_EXT.items() if length == size), None)
    return bytes([code, _ARRAY] if code else [*_sized(size, _EXT_LENGTHS), _ARRAY])


def _sized(size: int, codes: Mapping[int, str]) -> bytes:
    for code, form in codes.items():
        if size < 1 << 8 * struct.calcsize(form):
            return bytes([code]) + struct.pack(form, size)
    raise ValueError(f"an array of {size} bytes is too large for msgpack")


def orbax_metadata(names: list[str]) -> dict[str, JSON]:
    """What Orbax 0.4 writes beside an aggregated checkpoint: each leaf's keys, all of them kept in the msgpack."""
    entries: dict[str, JSON] = {}
    for name in sorted(names):
        keys = tuple(name.split("/"))
        entries[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": True},
        }
    return {"tree_metadata": entries}
