"""Flax's msgpack trees: where each array lies, read array by array, and written.

A file is first walked without its data, so a cut or foreign one is noticed at once and shapes are known before anything
is read. Arrays are then filled straight from the file, several at a time, each into memory as JAX takes it without a
copy: memory is the arrays' own, once. Files are those of `flax.serialization`: arrays are extension type 1 holding
(shape, dtype name, bytes).
"""

import math
import os
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np

from xp.errors import UserError

READERS, PIECE, ALIGNED = 4, 1 << 24, 64
_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_EXT = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_STRINGS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_ARRAYS = {0xDC: ">H", 0xDD: ">I"}
_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_NUMBERS |= {0xCA: ">f", 0xCB: ">d"}
_WORDS = {0xC0: None, 0xC2: False, 0xC3: True}


class _DamagedError(Exception):
    """What is wrong with the bytes, in a few words."""


@dataclass(frozen=True)
class Leaf:
    """An array that lies in a file from `offset` on."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


def read_tree(path: Path) -> Any:
    """The tree of a msgpack file as nested dicts of numpy arrays.

    Raises:
        UserError: the file is missing, cut short, or not a msgpack tree of arrays.
    """
    tree = scan_tree(path)
    with path.open("rb") as handle:
        return _filled(handle.fileno(), tree)


def scan_tree(path: Path) -> Any:
    """The tree of a msgpack file with a `Leaf` for every array; raises as `read_tree` does."""
    try:
        with path.open("rb") as handle:
            tree = _value(handle)
            if handle.read(1):
                raise _DamagedError("data after the end of the tree")
            return tree
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Give the folder that holds the whole checkpoint.") from error
    except (_DamagedError, struct.error, KeyError, TypeError, ValueError, MemoryError, RecursionError) as error:
        size = path.stat().st_size
        raise UserError(
            f"The file {path} ({size:,} bytes) is damaged or is not a Flax msgpack checkpoint: {error}. Copy it again "
            "from where it came from, or choose another step with FOLDER@STEP."
        ) from error


def read_leaves(path: Path, leaves: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    """The arrays of a file that `scan_tree` walked, by the names given; files stay whole while they are read."""
    with path.open("rb") as handle, ThreadPoolExecutor(READERS) as pool:
        arrays = pool.map(lambda leaf: _fetch(handle.fileno(), leaf), leaves.values())
        return dict(zip(leaves, arrays, strict=True))


def _filled(file: int, node: Any) -> Any:
    if isinstance(node, Mapping):
        return {name: _filled(file, child) for name, child in node.items()}
    return _fetch(file, node) if isinstance(node, Leaf) else node


def _fetch(file: int, leaf: Leaf) -> np.ndarray:
    array = _aligned(leaf.shape, leaf.dtype)
    view, done = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b""), 0
    while done < len(view):
        got = os.preadv(file, [view[done : done + PIECE]], leaf.offset + done)
        if not got:
            raise UserError("The checkpoint became shorter while it was read. Give the same command again.")
        done += got
    return array


def _aligned(shape: Iterable[int], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins at a multiple of 64 bytes, which is what JAX's CPU backend takes without a copy."""
    shape = tuple(shape)
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + ALIGNED, dtype=np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start : start + size].view(dtype).reshape(shape)


def _exactly(handle: BinaryIO, size: int) -> bytes:
    data = handle.read(size)
    if len(data) != size:
        raise _DamagedError(f"it ends {size - len(data):,} bytes too early")
    return data


def _number(handle: BinaryIO, form: str) -> Any:
    return struct.unpack(form, _exactly(handle, struct.calcsize(form)))[0]


def _value(handle: BinaryIO) -> Any:
    """One msgpack value (the format's public specification)."""
    head = _exactly(handle, 1)[0]
    if head < 0x80 or head >= 0xE0:
        return head if head < 0x80 else head - 0x100
    if head < 0x90 or head in _MAPS:
        count = head & 0x0F if head < 0x90 else _number(handle, _MAPS[head])
        return {_value(handle): _value(handle) for _ in range(count)}
    if head < 0xA0 or head in _ARRAYS:
        count = head & 0x0F if head < 0xA0 else _number(handle, _ARRAYS[head])
        return [_value(handle) for _ in range(count)]
    if head < 0xC0 or head in _STRINGS:
        return _exactly(handle, head & 0x1F if head < 0xC0 else _number(handle, _STRINGS[head])).decode()
    if head in _WORDS:
        return _WORDS[head]
    if head in _NUMBERS:
        return _number(handle, _NUMBERS[head])
    if head in _BYTES:
        return _exactly(handle, _number(handle, _BYTES[head]))
    if head in _EXT or head in _FIXED_EXT:
        size = _FIXED_EXT[head] if head in _FIXED_EXT else _number(handle, _EXT[head])
        missing = handle.tell() + 1 + size - os.fstat(handle.fileno()).st_size
        if missing > 0:
            raise _DamagedError(f"it ends inside an array, {missing:,} bytes too early")
        return _extension(handle, size)
    raise _DamagedError(f"byte 0x{head:02x} starts no msgpack value")


def _extension(handle: BinaryIO, size: int) -> Any:
    kind = _exactly(handle, 1)[0]
    if kind == _SCALAR:
        kind_of, data = _inner(_exactly(handle, size))
        return np.frombuffer(data, dtype=_dtype(kind_of))[0]
    if kind == _COMPLEX:
        real, imaginary = _inner(_exactly(handle, size))
        return complex(real, imaginary)
    if kind != _NDARRAY:
        raise _DamagedError(f"extension type {kind} is none of Flax's")
    shape, name = _array_header(handle)
    data = _number(handle, _BYTES[_exactly(handle, 1)[0]])
    expected = math.prod(shape) * _dtype(name).itemsize
    if data != expected or data > size:
        raise _DamagedError(f"an array of shape {tuple(shape)} has {data:,} bytes instead of {expected:,}")
    leaf = Leaf(handle.tell(), tuple(shape), _dtype(name))
    handle.seek(data, os.SEEK_CUR)
    return leaf


def _array_header(handle: BinaryIO) -> tuple[list[int], str]:
    """The start of an array's payload: a list of three whose first two are the shape and the dtype's name."""
    if _exactly(handle, 1)[0] != 0x93:
        raise _DamagedError("an array without shape, dtype and data")
    shape, name = _value(handle), _value(handle)
    return shape, name if isinstance(name, str) else name.decode()


def _inner(data: bytes) -> Any:
    return msgpack.unpackb(data, raw=False)


def _dtype(name: str) -> np.dtype:
    name = name if isinstance(name, str) else str(name)
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def write_tree(path: Path, tree: Mapping[str, Any]) -> int:
    """Write nested mappings of arrays as `flax.serialization.msgpack_serialize` would (keys sorted).

    Returns the number of bytes.
    """
    with path.open("wb") as handle:
        _write(handle, tree, msgpack.Packer())
        return handle.tell()


def _write(handle: BinaryIO, node: Any, packer: msgpack.Packer) -> None:
    if isinstance(node, Mapping):
        handle.write(packer.pack_map_header(len(node)))
        for key, value in sorted(node.items()):
            handle.write(packer.pack(key))
            _write(handle, value, packer)
        return
    array = np.asarray(node)
    array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    front = b"\x93" + packer.pack(list(array.shape)) + packer.pack(array.dtype.name) + _bytes_header(array.nbytes)
    size = len(front) + array.nbytes
    handle.write(_ext_header(size) + front)
    handle.write(array.reshape(-1).view(np.uint8).data if array.size else b"")


def _bytes_header(size: int) -> bytes:
    for code, form in _BYTES.items():
        if size < 1 << 8 * struct.calcsize(form):
            return bytes([code]) + struct.pack(form, size)
    raise ValueError(f"an array of {size} bytes is too large for msgpack")


def _ext_header(size: int) -> bytes:
    for code, length in _FIXED_EXT.items():
        if size == length:
            return bytes([code, _NDARRAY])
    for code, form in _EXT.items():
        if size < 1 << 8 * struct.calcsize(form):
            return bytes([code]) + struct.pack(form, size) + bytes([_NDARRAY])
    raise ValueError(f"an array of {size} bytes is too large for msgpack")
