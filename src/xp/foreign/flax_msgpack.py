"""Flax's msgpack trees from outside: where each array is, found without reading the data.

Files are those of `flax.serialization`: nested maps whose arrays are extension type 1 (shape, dtype name, bytes),
complex numbers type 2, numpy's scalars type 3 (the msgpack specification; flax.serialization._ndarray_to_bytes). No
other extension is known, nothing is called by a name from the file, and types of elements are those listed here.
"""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from xp.foreign.json_file import is_shape
from xp.foreign.paths import RefusedError, opened
from xp.foreign.text import printable, shown

DEEPEST = 64
"""Levels of nesting."""
MOST_VALUES = 2_000_000
"""Maps, names, numbers and arrays in one file."""
LONGEST_TEXT = 1 << 20
"""Bytes of a text or of bytes that are no array."""
ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes of an element by the name of its dtype."""
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


class _FoundError(Exception):
    """What is wrong with the bytes, in a few words."""


@dataclass(frozen=True)
class Array:
    """An array that is in a file from `offset` on; `word` is its dtype's name."""

    offset: int
    shape: tuple[int, ...]
    word: str

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * ITEM_BYTES[self.word]


@dataclass(frozen=True)
class Scalar:
    """One number of numpy's: its dtype's name and its bytes."""

    word: str
    data: bytes


type Tree = None | bool | int | float | complex | str | bytes | Array | Scalar | list[Tree] | dict[str, Tree]
"""What a msgpack file of Flax holds."""


def scan(path: str | Path, what: str) -> Tree:
    """The tree of a msgpack file, with an `Array` for each array and a `Scalar` for each number of numpy's.

    Args:
        path: the file.
        what: what it is, for the message: "the weights of step 100".

    Raises:
        MissingError: the file is not there.
        RefusedError: cut short, or no tree as Flax writes it: unknown extensions or types, bytes that do not fit a
            shape, names that are none or twice there, more nesting or values than a checkpoint has.
    """
    with opened(path, what) as handle:
        size = os.fstat(handle.fileno()).st_size
        try:
            walk = _Walk(handle, size)
            tree = walk.value(0)
            if handle.tell() != size:
                raise _FoundError(f"{size - handle.tell():,} bytes follow the end of its tree")
        except (_FoundError, UnicodeDecodeError) as error:
            raise RefusedError(
                f"{printable(path)} ({size:,} bytes) is damaged or is not the Flax msgpack file of {what}: {error}. "
                "Copy it again from where it came from, or choose another step with FOLDER@STEP."
            ) from error
    return tree


class _Walk:
    """One pass over the values of a file."""

    def __init__(self, handle: BinaryIO, size: int) -> None:
        self._handle, self._size, self._values = handle, size, 0

    def value(self, depth: int) -> Tree:
        """The value that starts here."""
        self._count(depth)
        head = self._exactly(1)[0]
        if head < 0x80 or head >= 0xE0:
            return head if head < 0x80 else head - 0x100
        if head < 0x90 or head in _MAPS:
            return self._map(head & 0x0F if head < 0x90 else self._number(_MAPS[head]), depth)
        if head < 0xA0 or head in _ARRAYS:
            count = self._fitting(head & 0x0F if head < 0xA0 else self._number(_ARRAYS[head]))
            return [self.value(depth + 1) for _ in range(count)]
        if head < 0xC0 or head in _STRINGS:
            return self._short(head & 0x1F if head < 0xC0 else self._number(_STRINGS[head])).decode()
        if head in _WORDS:
            return _WORDS[head]
        if head in _NUMBERS:
            return self._number(_NUMBERS[head])
        if head in _BYTES:
            return self._short(self._number(_BYTES[head]))
        if head in _EXT or head in _FIXED_EXT:
            return self._extension(_FIXED_EXT[head] if head in _FIXED_EXT else self._number(_EXT[head]), depth)
        raise _FoundError(f"byte 0x{head:02x} starts no msgpack value")

    def _map(self, count: int, depth: int) -> dict[str, Tree]:
        made: dict[str, Tree] = {}
        for _ in range(self._fitting(2 * count) // 2):
            name = self.value(depth + 1)
            if not isinstance(name, str) or "/" in name:
                raise _FoundError(f"{shown(name)} is not a name of a part of a tree")
            if name in made:
                raise _FoundError(f"{shown(name)} is there twice")
            made[name] = self.value(depth + 1)
        return made

    def _extension(self, length: int, depth: int) -> Array | Scalar | complex:
        kind = self._exactly(1)[0]
        end = self._handle.tell() + length
        if end > self._size:
            raise _FoundError(f"it ends inside an array, {end - self._size:,} bytes too early")
        if kind not in (_NDARRAY, _COMPLEX, _SCALAR):
            raise _FoundError(f"extension type {kind} is none of Flax's")
        found = self._array() if kind == _NDARRAY else self._scalar(depth) if kind == _SCALAR else self._complex(depth)
        if self._handle.tell() != end:
            raise _FoundError("an extension does not end where it says")
        return found

    def _array(self) -> Array:
        """A list of shape, dtype's name and bytes, the bytes passed over."""
        if self._exactly(1)[0] != 0x93:
            raise _FoundError("an array without shape, dtype and data")
        shape, word = self.value(DEEPEST - 1), self._word(self.value(DEEPEST - 1))
        if not is_shape(shape):
            raise _FoundError(f"an array has the shape {shown(shape)}")
        head = self._exactly(1)[0]
        if head not in _BYTES:
            raise _FoundError("an array without data")
        length = self._number(_BYTES[head])
        array = Array(self._handle.tell(), tuple(shape), word)
        if length != array.nbytes:
            raise _FoundError(f"an array of shape {array.shape} has {length:,} bytes instead of {array.nbytes:,}")
        self._handle.seek(length, os.SEEK_CUR)
        return array

    def _scalar(self, depth: int) -> Scalar:
        found = self.value(depth + 1)
        if not isinstance(found, list) or len(found) != 3 or found[0] != [] or not isinstance(found[2], bytes):
            raise _FoundError("a number without dtype and data")
        word = self._word(found[1])
        if len(found[2]) != ITEM_BYTES[word]:
            raise _FoundError(f"a number of type {word} has {len(found[2])} bytes")
        return Scalar(word, found[2])

    def _complex(self, depth: int) -> complex:
        found = self.value(depth + 1)
        parts = [part for part in found if isinstance(part, float)] if isinstance(found, list) else []
        if not isinstance(found, list) or len(found) != 2 or len(parts) != 2:
            raise _FoundError("a complex number without two parts")
        return complex(parts[0], parts[1])

    def _word(self, name: object) -> str:
        word = name.decode("ascii", "replace") if isinstance(name, bytes) else name
        if not isinstance(word, str) or word not in ITEM_BYTES:
            raise _FoundError(f"the type of elements {shown(word)} is not known")
        return word

    def _count(self, depth: int) -> None:
        self._values += 1
        if self._values > MOST_VALUES:
            raise _FoundError(f"it has more than {MOST_VALUES:,} values")
        if depth > DEEPEST:
            raise _FoundError(f"it is nested deeper than {DEEPEST} levels")

    def _fitting(self, count: int) -> int:
        """A number of values, each of which takes at least a byte."""
        left = self._size - self._handle.tell()
        if count > left:
            raise _FoundError(f"it announces {count:,} values and ends after {left:,} bytes")
        return count

    def _short(self, length: int) -> bytes:
        if length > LONGEST_TEXT:
            raise _FoundError(f"it has a text of {length:,} bytes")
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = self._handle.read(length)
        if len(data) != length:
            raise _FoundError(f"it ends {length - len(data):,} bytes too early")
        return data

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._exactly(struct.calcsize(form)))[0]
