"""Octo's msgpack checkpoints (`STEP/default/checkpoint`), indexed without reading their data.

Files are those of `flax.serialization`: nested maps whose leaves are extension type 1, a list of shape, dtype name and
bytes (the msgpack specification; flax.serialization._ndarray_to_bytes). The index skips over the data, so a checkpoint
of any size opens at once and is read in ranges like a safetensors file.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np

from xp.merging.formats.base import BFLOAT16, Damaged, Leaf
from xp.merging.formats.flat import Extent, FlatReader, FlatWriter

_ARRAY = 1
_MAP_LENGTHS = {0xDE: ">H", 0xDF: ">I"}
_EXT_LENGTHS = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
_BIN_LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def open_octo(file: Path) -> FlatReader:
    """The arrays of a msgpack tree by path, joined by '/'.

    Raises:
        Damaged: the file is cut short or is no Flax tree of arrays.
    """
    size = file.stat().st_size
    extents: dict[str, Extent] = {}
    try:
        with file.open("rb") as handle:
            for leaf, offset in _walk(handle, (), size):
                extents[leaf.name] = Extent(leaf, 0, offset)
            rest = size - handle.tell()
    except (struct.error, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise Damaged(f"{file.name} ({size:,} bytes) is cut short or is no Flax msgpack tree of arrays") from error
    if rest or not extents:
        raise Damaged(f"{file.name} has {rest:,} bytes after its tree of {len(extents)} arrays")
    return FlatReader((file,), extents)


def _walk(handle: BinaryIO, path: tuple[str, ...], size: int) -> Iterator[tuple[Leaf, int]]:
    """Leaves below the value that starts here, with the offsets of their data."""
    head = handle.read(1)[0]
    if 0x80 <= head < 0x90 or head in _MAP_LENGTHS:
        count = head & 0x0F if head < 0x90 else _number(handle, _MAP_LENGTHS[head])
        for _ in range(count):
            yield from _walk(handle, (*path, _key(handle)), size)
        return
    length = _FIXED_EXT[head] if head in _FIXED_EXT else _number(handle, _EXT_LENGTHS[head])
    end = handle.tell() + 1 + length
    if handle.read(1)[0] != _ARRAY or end > size:
        raise ValueError("no array, or one that the file does not hold to its end")
    leaf, offset = _array(handle, "/".join(path))
    handle.seek(end)
    yield leaf, offset


def _array(handle: BinaryIO, name: str) -> tuple[Leaf, int]:
    """Shape and dtype of the array payload that starts here, and where its bytes begin."""
    start = handle.tell()
    front = handle.read(256)
    unpacker = msgpack.Unpacker(raw=False)
    unpacker.feed(front)
    if unpacker.read_array_header() != 3:
        raise ValueError("an array is a list of shape, dtype and bytes")
    shape, word = tuple(unpacker.unpack()), unpacker.unpack()
    handle.seek(start + unpacker.tell())
    length = _number(handle, _BIN_LENGTHS[handle.read(1)[0]])
    leaf = Leaf(name, shape, BFLOAT16 if word == "bfloat16" else np.dtype(word))
    if length != leaf.nbytes:
        raise ValueError("the bytes do not fit the shape")
    return leaf, handle.tell()


def _key(handle: BinaryIO) -> str:
    head = handle.read(1)[0]
    length = head & 0x1F if 0xA0 <= head < 0xC0 else _number(handle, {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}[head])
    return handle.read(length).decode()


def _number(handle: BinaryIO, form: str) -> int:
    return struct.unpack(form, handle.read(struct.calcsize(form)))[0]


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
