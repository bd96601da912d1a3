"""A reader that changes some weights as they are read: what a change is, and the changes that a PEFT adapter makes.

A change answers for whole rows (all of a leaf's axes but the first), so that a range costs what it spans.
"""

import math
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from xp.checkpoints.arrays import AnyArray, Leaf, Reader
from xp.checkpoints.ranges import cut, rounded_up

_BLOCK = 1 << 20
"""Elements that a norm over columns is summed over at once."""


@runtime_checkable
class Change(Protocol):
    """How some rows of a leaf come about."""

    def row(self, leaf: Leaf) -> int:
        """Elements that are read together."""
        ...

    def rows(self, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
        """Elements [first, last) of the flattened leaf, whole rows or its end, in a float type or the leaf's own."""
        ...


class Folded:
    """A reader some of whose leaves are changed."""

    def __init__(
        self, reader: Reader, changes: Mapping[str, Change], drop: set[str], added: Reader | None = None
    ) -> None:
        """What is read instead of a reader's leaves.

        Args:
            reader: of the leaves that are changed.
            changes: by the name of the leaf they are for.
            drop: leaves that are no longer there on their own.
            added: of further leaves; one of the same name stands for the reader's.
        """
        self.files, self.ties = reader.files, dict(reader.ties)
        kept = {name: leaf for name, leaf in reader.leaves.items() if name not in drop}
        self.leaves: Mapping[str, Leaf] = {**kept, **(added.leaves if added is not None else {})}
        self._reader, self._changes, self._added = reader, changes, added

    def alignment(self, name: str) -> int:
        """Whole rows of a leaf that is changed, as often as the file's own alignment wants."""
        alignment = self._source(name).alignment(name)
        return rounded_up(alignment, self._changes[name].row(self.leaves[name])) if name in self._changes else alignment

    def requires_sequential_read(self, name: str) -> bool:
        """As the weights that are changed."""
        return self._source(name).requires_sequential_read(name)

    def _source(self, name: str) -> Reader:
        return self._added if self._added is not None and name in self._added.leaves else self._reader

    def read(self, name: str, start: int, stop: int) -> AnyArray:
        """See `Reader.read`."""
        if name not in self._changes:
            return self._source(name).read(name, start, stop)
        leaf, change = self.leaves[name], self._changes[name]
        row = change.row(leaf)
        first, last = start // row * row, min(rounded_up(stop, row), leaf.size)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # who reads checks for what is not finite
            values = change.rows(self._reader, leaf, first, last)[start - first : stop - first]
            return values.astype(leaf.dtype)


def width(leaf: Leaf) -> int:
    """Elements of a row: all axes but the first."""
    return max(math.prod(leaf.shape[1:]), 1)


@dataclass(frozen=True)
class Replaced:
    """Another array takes the leaf's place."""

    source: Reader
    name: str

    def row(self, leaf: Leaf) -> int:
        """See `Change.row`."""
        return 1

    def rows(self, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
        """See `Change.rows`."""
        return self.source.read(self.name, first, last).astype(leaf.dtype)


@dataclass(frozen=True)
class Shift:
    """bias + scale * shift."""

    source: Reader
    name: str
    scale: float
    under: Change | None

    def row(self, leaf: Leaf) -> int:
        """See `Change.row`."""
        return 1

    def rows(self, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
        """See `Change.rows`."""
        return _under(self.under, base, leaf, first, last) + self.scale * _float64(self.source, self.name, first, last)


@dataclass(frozen=True)
class Rows:
    """Some rows of a matrix are replaced: `indices[k]` by row k of another."""

    source: Reader
    name: str
    indices: tuple[int, ...]
    under: Change | None

    def row(self, leaf: Leaf) -> int:
        """See `Change.row`."""
        return width(leaf)

    def rows(self, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
        """See `Change.rows`."""
        size = width(leaf)
        values = _under(self.under, base, leaf, first, last).reshape(-1, size)
        for k, index in enumerate(self.indices):
            if first // size <= index < -(-last // size):
                values[index - first // size] = self.source.read(self.name, k * size, (k + 1) * size)
        return values.reshape(-1)


@dataclass(frozen=True)
class Product:
    """W + scale * B A, for W [out, in, ...]; W + scale * (B A)^T for W [in, out]."""

    source: Reader
    a: str
    """A [r, in, ...]."""
    b: str
    """B [out, r, 1, ...]."""
    scale: float
    transposed: bool
    under: Change | None = None
    _held: list[tuple[AnyArray, AnyArray]] = field(default_factory=list, compare=False)

    def row(self, leaf: Leaf) -> int:
        """See `Change.row`."""
        return width(leaf)

    def rows(self, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
        """See `Change.rows`."""
        size = width(leaf)
        left, right = self._factors()
        update = left[first // size : -(-last // size)] @ right
        return _under(self.under, base, leaf, first, last) + self.scale * update.reshape(-1)

    def _factors(self) -> tuple[AnyArray, AnyArray]:
        """[rows, r] and [r, columns] in float64, kept: they are small, and asked for with each range."""
        if not self._held:
            a, b = (_matrix(self.source, name) for name in (self.a, self.b))
            b = b.reshape(b.shape[0], -1)
            self._held.append((a.T, b.T) if self.transposed else (b, a))
        return self._held[0]


@dataclass(frozen=True)
class Dora:
    """m / |V| V for V = W + scale * B A, with the norm over each output's weights."""

    product: Product
    source: Reader
    magnitude: str
    _held: list[AnyArray] = field(default_factory=list, compare=False)
    _lock: AbstractContextManager[object] = field(default_factory=threading.Lock, compare=False)

    def row(self, leaf: Leaf) -> int:
        """See `Change.row`."""
        return width(leaf)

    def rows(self, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
        """See `Change.rows`."""
        size = width(leaf)
        values = self.product.rows(base, leaf, first, last).reshape(-1, size)
        if self.product.transposed:
            return (values * self._of_columns(base, leaf)).reshape(-1)
        magnitude = _float64(self.source, self.magnitude, first // size, -(-last // size))
        return (values * (magnitude / np.linalg.norm(values, axis=1))[:, None]).reshape(-1)

    def _of_columns(self, base: Reader, leaf: Leaf) -> AnyArray:
        """The factor m / |V| of each column: one pass over the matrix, kept."""
        with self._lock:
            if not self._held:
                size = width(leaf)
                squares = np.zeros(size)
                for first, last in cut(0, leaf.size, rounded_up(_BLOCK, size)):
                    values = self.product.rows(base, leaf, first, last).reshape(-1, size)
                    squares += np.einsum("ij,ij->j", values, values)
                self._held.append(_float64(self.source, self.magnitude, 0, size) / np.sqrt(squares))
            return self._held[0]


def _under(change: Change | None, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
    """Elements of a leaf in float64, after an earlier change."""
    if change is None:
        return base.read(leaf.name, first, last).astype(np.float64)
    row = change.row(leaf)
    start, stop = first // row * row, min(rounded_up(last, row), leaf.size)
    return change.rows(base, leaf, start, stop)[first - start : last - start].astype(np.float64)


def _float64(reader: Reader, name: str, start: int, stop: int) -> AnyArray:
    return reader.read(name, start, stop).astype(np.float64)


def _matrix(reader: Reader, name: str) -> AnyArray:
    """An array as float64 [its first axis, the rest]; scalars and vectors as one row each."""
    leaf = reader.leaves[name]
    return _float64(reader, name, 0, leaf.size).reshape(leaf.shape[0], -1)
