# pyright: strict
"""Named arrays on disk: the header of one, and the interfaces to read and to write them in ranges."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
"""A numpy array whose type of elements a file decides."""
AnyDType = np.dtype[Any]
"""A numpy type of elements, or one of `SMALL_FLOATS`."""
BFLOAT16: AnyDType = np.dtype(ml_dtypes.bfloat16)
SMALL_FLOATS: tuple[AnyDType, ...] = (
    BFLOAT16,
    np.dtype(ml_dtypes.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e5m2),
    np.dtype(ml_dtypes.float8_e4m3),
    np.dtype(ml_dtypes.float8_e4m3fnuz),
    np.dtype(ml_dtypes.float8_e5m2fnuz),
)
"""Float types that numpy itself does not know."""
_SMALL_FLOATS_BY_NAME = {dtype.name: dtype for dtype in SMALL_FLOATS}
BYTE_ALIGNMENT = 64
"""Arrays that start at a multiple of so many bytes are taken by JAX's CPU backend without a copy."""


class CorruptFileError(Exception):  # noqa: N818 - a finding, turned into a message where the file is known
    """A weights file is truncated, inconsistent or of another format: says what was found."""


@dataclass(frozen=True)
class Leaf:
    """The header of one named array."""

    name: str
    shape: tuple[int, ...]
    dtype: AnyDType

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.size * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        """Whether arithmetic applies; integers and truth values are copied."""
        return is_float(self.dtype)


def is_float(dtype: AnyDType) -> bool:
    """Whether a dtype is a real floating-point type, numpy's or one of `SMALL_FLOATS`."""
    return dtype.kind == "f" or dtype in SMALL_FLOATS


def dtype_named(name: str) -> AnyDType:
    """The dtype of a name, numpy's (`float32`, `<f4`) or one of `SMALL_FLOATS`."""
    return _SMALL_FLOATS_BY_NAME.get(name) or np.dtype(name)


def aligned_empty(shape: Sequence[int], dtype: AnyDType) -> AnyArray:
    """An array of that shape, its values undefined, that starts at a multiple of `BYTE_ALIGNMENT`."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + BYTE_ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % BYTE_ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


@runtime_checkable
class Array(Protocol):
    """An array of numpy or JAX, wherever its data is; `np.asarray` takes it to the host."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    @property
    def dtype(self) -> AnyDType:
        """Type of the elements."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        ...

    def __array__(self) -> AnyArray: ...


@runtime_checkable
class Reader(Protocol):
    """Weights on disk. Opening one reads headers only; `read` may be called from several threads."""

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Every array's header by name."""
        ...

    @property
    def ties(self) -> Mapping[str, str]:
        """{name that was dropped when the file was written: the name it shares its data with}."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files (or the one folder) that hold the weights."""
        ...

    def alignment(self, name: str) -> int:
        """How many consecutive elements are cheapest read together: 1, or those of one stored chunk."""
        ...

    def requires_sequential_read(self, name: str) -> bool:
        """Whether ranges are cheap only where each follows the one that the same thread read before it."""
        ...

    def read(self, name: str, start: int, stop: int) -> AnyArray:
        """Elements [start, stop) of the flattened array, 1-D; valid until this thread's next read of the reader.

        Raises:
            CorruptFileError: the bytes are not there.
        """
        ...


@runtime_checkable
class Writer(Protocol):
    """A checkpoint's weights being written; all leaves are known from the start. `write` may be called by threads."""

    def write(self, name: str, start: int, data: AnyArray) -> None:
        """Put 1-D `data` at element `start` of the flattened array."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...
