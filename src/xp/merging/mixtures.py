"""How each method acts on a range of one leaf: the rules of `rules` bound to their weights and parameters."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from zlib import crc32

import numpy as np

from xp.merging import rules
from xp.merging.formats.base import Leaf
from xp.merging.groups import Units, rows_of


class Mixture(Protocol):
    """A method at work. Ranges of a leaf come in order; with `looks` > 0 all of a leaf is seen so often beforehand."""

    looks: int
    weights: np.ndarray
    """[U, N]: for the record; the coefficients of the checkpoints in each unit."""

    def look(self, turn: int, leaf: Leaf, start: int, arrays: Sequence[np.ndarray]) -> None:
        """See elements [start, start + n) of every input."""
        ...

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[np.ndarray], out: np.ndarray) -> None:
        """Write the merged elements into `out`; `arrays` are taken one by one where the rule allows it."""
        ...


def pieces(leaf: Leaf, start: int, count: int) -> Iterator[tuple[int, slice]]:
    """(row, slice into the range) for each row of a stacked leaf that elements [start, start + count) touch."""
    rows = rows_of(leaf)
    size = leaf.size // rows
    if rows == 1 or not size:
        yield 0, slice(0, count)
        return
    for row in range(start // size, -(-(start + count) // size)):
        yield row, slice(max(row * size - start, 0), min((row + 1) * size - start, count))


@dataclass
class Linear:
    """A weighted sum; `units` and `weights` [U, N] give each leaf, or each layer of it, its weights."""

    units: Units
    weights: np.ndarray
    looks: int = 0

    def look(self, turn: int, leaf: Leaf, start: int, arrays: Sequence[np.ndarray]) -> None:
        """Nothing to learn from the data."""

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[np.ndarray], out: np.ndarray) -> None:
        """See `rules.linear`."""
        unit = self.units.of_leaf[leaf.name]
        if len(unit) == 1:
            rules.linear(arrays, self.weights[unit[0]], out)
            return
        held = list(arrays)
        for row, part in pieces(leaf, start, len(out)):
            rules.linear([array[part] for array in held], self.weights[unit[row]], out[part])


@dataclass
class BaseRelative:
    """task_arithmetic, ties and dare: the base, and what the checkpoints add to it. The first input is the base."""

    kind: str
    units: Units
    weights: np.ndarray
    """[U, N] of the N checkpoints, without the base."""
    scale: float = 1.0
    density: float = 1.0
    """Share of each task vector's entries that ties keeps; 1 - density is what dare drops."""
    seed: int = 0
    looks: int = 0
    _histograms: dict[tuple[str, int], list[rules.MagnitudeHistogram]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.looks = 2 if self.kind == "ties" and self.density < 1 else 0

    def look(self, turn: int, leaf: Leaf, start: int, arrays: Sequence[np.ndarray]) -> None:
        """Count magnitudes of the task vectors, layer by layer."""
        base, *tuned = arrays
        keep = math.ceil(self.density * leaf.size / rows_of(leaf) - 1e-9)
        for row, part in pieces(leaf, start, len(base)):
            known = self._histograms.setdefault(
                (leaf.name, row), [rules.MagnitudeHistogram(keep) for _ in range(len(tuned))]
            )
            reference = base[part].astype(np.float32)
            for histogram, array in zip(known, tuned):
                histogram.look(turn, array[part].astype(np.float32) - reference)

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[np.ndarray], out: np.ndarray) -> None:
        """See `rules.task_arithmetic`, `rules.ties` and `rules.dare`."""
        base, *tuned = arrays
        unit = self.units.of_leaf[leaf.name]
        for row, part in pieces(leaf, start, len(out)):
            given = [array[part] for array in tuned]
            weights = self.weights[unit[min(row, len(unit) - 1)]]
            if self.kind == "ties":
                levels = [known.threshold() for known in self._histograms.get((leaf.name, row), ())]
                out[part] = rules.ties(base[part], given, weights, self.scale, levels or [0.0] * len(given))
            elif self.kind == "dare":
                first = start + part.start
                draws = [self._draws(leaf, k, first, part.stop - part.start) for k in range(len(given))]
                out[part] = rules.dare(base[part], given, weights, self.scale, 1 - self.density, draws)
            else:
                out[part] = rules.task_arithmetic(base[part], given, weights, self.scale)

    def _draws(self, leaf: Leaf, checkpoint: int, start: int, count: int) -> np.ndarray:
        key = (self.seed << 64) | (crc32(leaf.name.encode()) << 32) | checkpoint
        return rules.uniform_draws(key, start, count)


@dataclass
class Angular:
    """slerp, karcher and model_stock: weighted sums whose weights come from the angles within each tensor or layer."""

    kind: str
    units: Units
    weights: np.ndarray
    """[U, N]: karcher's shares; for slerp [1 - t, t]; for model_stock equal."""
    looks: int = 1
    _products: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    def look(self, turn: int, leaf: Leaf, start: int, arrays: Sequence[np.ndarray]) -> None:
        """Add up inner products, layer by layer."""
        base, tuned = (arrays[0], arrays[1:]) if self.kind == "model_stock" else (None, arrays)
        for row, part in pieces(leaf, start, len(arrays[0])):
            found = rules.gram([array[part] for array in tuned], None if base is None else base[part])
            self._products[leaf.name, row] = self._products.get((leaf.name, row), 0.0) + found

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[np.ndarray], out: np.ndarray) -> None:
        """See `rules.linear`, with the weights of each layer's angles."""
        held = list(arrays)
        unit = self.units.of_leaf[leaf.name]
        for row, part in pieces(leaf, start, len(out)):
            weights = self._coefficients(self._products[leaf.name, row], self.weights[unit[min(row, len(unit) - 1)]])
            rules.linear([array[part] for array in held], weights, out[part])

    def _coefficients(self, products: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if not np.isfinite(products).all():  # an input is not finite: let the result say so
            return np.full(len(weights) + (self.kind == "model_stock"), np.nan)
        if self.kind == "slerp":
            return rules.slerp_weights(products, float(weights[1]))
        if self.kind == "karcher":
            return rules.karcher_weights(products, weights.tolist())
        ratio = rules.model_stock_ratio(products)
        return np.array([1.0 - ratio, *(ratio * weights)])
