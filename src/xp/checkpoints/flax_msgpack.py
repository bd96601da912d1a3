"""Octo's msgpack checkpoints (`STEP/default/checkpoint`), indexed without reading their data.

Files are those of `flax.serialization`: nested maps whose leaves are extension type 1, a list of shape, dtype name and
bytes (the msgpack specification; flax.serialization._ndarray_to_bytes). The index skips over the data, so a checkpoint
of any size opens at once and is read in ranges like a safetensors file.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np

from xp.checkpoints.arrays import BFLOAT16, SMALL_FLOATS, CorruptFileError, Leaf
from xp.checkpoints.flat_file import Extent, FlatReader, FlatWriter
from xp.foreign.flax_msgpack import Array, scan

SMALL_TYPES = {dtype.name: dtype for dtype in SMALL_FLOATS}
_ARRAY = 1
_EXT_LENGTHS = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
_BIN_LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def open_octo(file: Path) -> FlatReader:
    """The arrays of a msgpack tree by path, joined by '/'.

    Raises:
        RefusedError: the file is cut short or is no Flax tree.
        CorruptFileError: it holds something besides arrays, or nothing.
    """
    extents: dict[str, Extent] = {}
    waiting = [((), scan(file, "a checkpoint's weights"))]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict):
            waiting += [((*path, name), child) for name, child in reversed(node.items())]
            continue
        name = "/".join(path)
        if not isinstance(node, Array) or not path:
            raise CorruptFileError(f"{file.name} holds {type(node).__name__} at {name!r}, where arrays are expected")
        dtype = SMALL_TYPES.get(node.word) or np.dtype(node.word)
        extents[name] = Extent(Leaf(name, node.shape, dtype), 0, node.offset)
    if not extents:
        raise CorruptFileError(f"{file.name} holds no arrays")
    return FlatReader((file,), extents)


def create_octo(folder: Path, leaves: Mapping[str, Leaf]) -> FlatWriter:
    """Write the tree's bones (keys sorted, as Flax writes them) and set the size; data goes through the answer."""
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
    with file.open("xb") as handle:
        _write_bones(handle, tree, extents)
        handle.truncate()
    return FlatWriter((file,), extents)


def _write_bones(handle: BinaryIO, node: Any, extents: dict[str, Extent]) -> None:
    packer = msgpack.Packer()
    if isinstance(node, Leaf):
        front = b"\x93" + packer.pack(list(node.shape)) + packer.pack(_word(node.dtype)) + _binary(node.nbytes)
        handle.write(_extension(len(front) + node.nbytes) + front)
        extents[node.name] = Extent(node, 0, handle.tell())
        handle.seek(node.nbytes, 1)
        return
    handle.write(packer.pack_map_header(len(node)))
    for key, child in sorted(node.items()):
        handle.write(packer.pack(key))
        _write_bones(handle, child, extents)


def _word(dtype: np.dtype) -> str:
    return "bfloat16" if dtype == BFLOAT16 else dtype.name


def _binary(size: int) -> bytes:
    return _sized(size, _BIN_LENGTHS)


def _extension(size: int) -> bytes:
    code = next((code for code, length in _FIXED_EXT.items() if length == size), None)
    return bytes([code, _ARRAY] if code else [*_sized(size, _EXT_LENGTHS), _ARRAY])


def _sized(size: int, codes: Mapping[int, str]) -> bytes:
    code, form = next((code, form) for code, form in codes.items() if size < 1 << 8 * struct.calcsize(form))
    return bytes([code]) + struct.pack(form, size)


def orbax_metadata(names: list[str]) -> dict[str, Any]:
    """What Orbax 0.4 writes beside an aggregated checkpoint: each leaf's keys, all of them kept in the msgpack."""
    entries = {}
    for name in sorted(names):
        keys = tuple(name.split("/"))
        entries[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": True},
        }
    return {"tree_metadata": entries}
