"""Flax's msgpack trees: where each array lies, read array by array, and written.

A file is first walked without its data (`xp.foreign.flax_msgpack`), so a cut or foreign one is noticed at once and
shapes are known before anything is read. Arrays are then filled straight from the file, several at a time, each into
memory as JAX takes it without a copy: memory is the arrays' own, once. Files are those of `flax.serialization`: arrays
are extension type 1 holding (shape, dtype name, bytes).
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
from xp.foreign.flax_msgpack import Array, Scalar, scan

READERS, PIECE, ALIGNED = 4, 1 << 24, 64
_NDARRAY = 1
_EXT = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}


@dataclass(frozen=True)
class Leaf:
    """An array that lies in a file from `offset` on."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


def read_tree(path: Path) -> Any:
    """The tree of a msgpack file as nested dicts of numpy arrays.

    Raises:
        UserError: the file is missing, cut short, or not a msgpack tree as Flax writes it.
    """
    tree = scan_tree(path)
    with path.open("rb") as handle:
        return _filled(handle.fileno(), tree)


def scan_tree(path: Path) -> Any:
    """The tree of a msgpack file with a `Leaf` for every array; raises as `read_tree` does."""
    return _typed(scan(path, "an Octo"))


def _typed(node: Any) -> Any:
    """The tree that the door found with numpy's types in it."""
    if isinstance(node, dict):
        return {name: _typed(child) for name, child in node.items()}
    if isinstance(node, list):
        return [_typed(child) for child in node]
    if isinstance(node, Array):
        return Leaf(node.offset, node.shape, _dtype(node.word))
    return np.frombuffer(node.data, _dtype(node.word))[0] if isinstance(node, Scalar) else node


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


def _dtype(word: str) -> np.dtype:
    """The type of a word that the door let in."""
    if word.startswith(("bfloat", "float8")):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, word))
    return np.dtype(word)


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
