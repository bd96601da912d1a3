"""The rules of methods relative to a base: task vectors are thinned out and combined. The first input is the base."""

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from xp.checkpoints.arrays import Leaf
from xp.checkpoints.ranges import cut, rounded_up
from xp.json_types import JSON
from xp.merging import rules
from xp.merging.groups import Units, rows_of
from xp.merging.histogram import MagnitudeHistogram
from xp.merging.merge_rules import Report, pieces
from xp.merging.shapes import Entries, Magnitudes, Shares, Table, Values
from xp.merging.trims import Tensor, Trim

TILE = 1 << 14
"""Entries combined at once: a dozen float64 arrays of so many stay in a core's cache."""
Vectors = Float64[np.ndarray, "models elements"]
"""The task vectors of all checkpoints in a range."""


@dataclass
class TaskVectors:
    """Base plus thinned task vectors: task_arithmetic, ties, dare, dare_ties, breadcrumbs, breadcrumbs_ties, della."""

    units: Units
    weights: Table
    """Of the checkpoints, without the base."""
    trim: Trim
    scale: float = 1.0
    normalize: bool = False
    elect: bool = False
    match_l1: bool = False
    """Multiply what is left of a vector so that its magnitudes add up to what they did before, tensor by tensor."""
    leaf_passes: int = 0
    model_passes: int = 0
    _sums: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    _kept: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    _tensors: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    _lock: AbstractContextManager[object] = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.leaf_passes, self.model_passes = self.trim.leaf_passes + self.match_l1, self.trim.model_passes

    def alignment(self, leaf: Leaf) -> int:
        """See `Trim.alignment`."""
        return self.trim.alignment(leaf)

    def observe_model(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """See a range of the whole model, before any of it is merged."""
        for tensor, k, _, vector in self._vectors(leaf, start, arrays):
            self.trim.observe(pass_index, tensor, k, vector)

    def observe(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """See a range of a leaf before it is merged."""
        for tensor, k, first, vector in self._vectors(leaf, start, arrays):
            if pass_index < self.trim.leaf_passes:
                self.trim.observe(pass_index, tensor, k, vector)
                continue
            factor = self.trim.factor(tensor, k, first, vector)
            left = vector if factor is None else vector * factor
            sums = self._sums.setdefault((leaf.name, tensor.row), np.zeros((2, self.weights.shape[1])))
            sums[:, k] += np.abs(vector).sum(), np.abs(left).sum()

    def _vectors(self, leaf: Leaf, start: int, arrays: Sequence[Values]) -> Iterable[tuple[Tensor, int, int, Entries]]:
        """(tensor, checkpoint, element of the leaf, entries) of a range, a tile at a time."""
        base, *tuned = arrays
        for row, part in pieces(leaf, start, len(base)):
            for first, last in cut(part.start, part.stop, rounded_up(rules.TILE, self.alignment(leaf))):
                for k, array in enumerate(tuned):
                    vector = rules.task_vector(base[first:last], array[first:last])
                    yield Tensor(leaf, row), k, start + first, vector

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[Values], out: Values) -> None:
        """See `rules.combine`."""
        base, *tuned = arrays
        unit = self.units.of_leaf[leaf.name]
        for row, part in pieces(leaf, start, len(out)):
            weights, tensor = self.weights[unit[min(row, len(unit) - 1)]], Tensor(leaf, row)
            for first, last in cut(part.start, part.stop, rounded_up(TILE, self.alignment(leaf))):
                origin = base[first:last]
                vectors = [
                    self._left(tensor, k, start + first, rules.task_vector(origin, array[first:last]))
                    for k, array in enumerate(tuned)
                ]
                out[first:last] = rules.combine(
                    origin, vectors, weights, scale=self.scale, normalize=self.normalize, elect=self.elect
                )

    def _left(self, tensor: Tensor, k: int, start: int, vector: Entries) -> Entries:
        """What the trim leaves of a vector, counted for the record."""
        factor = self.trim.factor(tensor, k, start, vector)
        key = tensor.leaf.name, tensor.row
        with self._lock:
            self._tensors.setdefault(key, tensor)
            kept = self._kept.setdefault(key, np.zeros(self.weights.shape[1], np.int64))
            kept[k] += len(vector) if factor is None else np.count_nonzero(factor)
        if factor is not None:
            with np.errstate(invalid="ignore"):
                vector = vector * factor
        return vector * self._stretch(key, k) if self.match_l1 else vector

    def _stretch(self, key: tuple[str, int], k: int) -> float:
        before, after = self._sums[key][:, k]
        return float(before / after) if after > 0 else 1.0

    def report(self) -> Report:
        """For each tensor: the share of entries that were kept of each checkpoint, and what decided it."""
        found: Report = {}
        for key in sorted(self._tensors):
            tensor = self._tensors[key]
            entry: dict[str, JSON] = {
                "kept": (self._kept[key] / max(tensor.size, 1)).tolist(),
                **self.trim.report(tensor),
            }
            if self.match_l1:
                entry["stretched"] = [self._stretch(key, k) for k in range(self.weights.shape[1])]
            found[tensor.label] = entry
        return found


@dataclass
class Selected:
    """sce: select what varies, calculate weights, erase minorities. Wan et al., arXiv 2408.07990, section 3.3.

    Of each tensor the entries whose variance over the task vectors is largest are selected (a share `select_topk` of
    those that vary at all); a vector's weight is its share of all vectors' mean squares of what is selected; entries
    against the sign of the sum are erased, and the weighted mean of the rest is added to the base.
    """

    units: Units
    weights: Table
    """Equal: the rule finds its own, see `report`."""
    select_topk: float = 1.0
    leaf_passes: int = 1
    model_passes: int = 0
    _histograms: dict[tuple[str, int], MagnitudeHistogram] = field(default_factory=dict)
    _threshold: dict[tuple[str, int], float] = field(default_factory=dict)
    _squares: dict[tuple[str, int], Shares] = field(default_factory=dict)
    _kept: dict[tuple[str, int], int] = field(default_factory=dict)
    _labels: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.leaf_passes = 3 if self.select_topk < 1 else 1

    def alignment(self, leaf: Leaf) -> int:
        """One by one."""
        return 1

    def observe_model(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """Nothing of the whole model is asked for."""

    def observe(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """Count variances, twice; then add up squares of what they select."""
        for key, _, _, vectors in self._tiles(leaf, start, arrays):
            if pass_index == self.leaf_passes - 1:
                squares = np.square(self._selected(key, vectors)).sum(axis=1)
                self._squares[key] = self._squares.get(key, 0.0) + squares
                continue
            known = self._histograms.setdefault(key, MagnitudeHistogram())
            if pass_index == 1 and not known.ranks:
                known.ranks = (max(1, int(known.nonzero * self.select_topk)) if known.nonzero else 0,)
            known.observe(pass_index, _variance(vectors))

    def _tiles(
        self, leaf: Leaf, start: int, arrays: Sequence[Values]
    ) -> Iterable[tuple[tuple[str, int], int, int, Vectors]]:
        """(tensor, first and last element of the range, task vectors of all checkpoints), a tile at a time."""
        base, *tuned = arrays
        for row, part in pieces(leaf, start, len(base)):
            key = leaf.name, row
            self._labels.setdefault(key, (Tensor(leaf, row).label, leaf.size // rows_of(leaf)))
            for first, last in cut(part.start, part.stop, rules.TILE):
                origin = base[first:last]
                yield key, first, last, np.stack([rules.task_vector(origin, array[first:last]) for array in tuned])

    def _selected(self, key: tuple[str, int], vectors: Vectors) -> Vectors:
        if self.select_topk >= 1:
            return vectors
        if key not in self._threshold:
            self._threshold[key] = self._histograms.pop(key).threshold()
        chosen = _variance(vectors) >= np.float32(self._threshold[key])
        with np.errstate(invalid="ignore"):
            return vectors * chosen

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[Values], out: Values) -> None:
        """See `rules.combine`."""
        held = list(arrays)
        for key, first, last, vectors in self._tiles(leaf, start, held):
            kept = self._selected(key, vectors)
            self._kept[key] = self._kept.get(key, 0) + int(np.count_nonzero(kept.any(axis=0)))
            out[first:last] = rules.combine(
                held[0][first:last], list(kept), self._shares(key), normalize=True, elect=True, weigh_votes=False
            )

    def _shares(self, key: tuple[str, int]) -> Shares:
        """Weights of a tensor; equal where nothing is selected."""
        squares = self._squares[key]
        total = squares.sum()
        with np.errstate(invalid="ignore"):
            return np.full(len(squares), 1.0 / len(squares)) if total == 0 else squares / total

    def report(self) -> Report:
        """For each tensor: the weights that were calculated and the share of entries that were selected."""
        return {
            label: {"weights": self._shares(key).tolist(), "selected": self._kept.get(key, 0) / max(size, 1)}
            for key, (label, size) in sorted(self._labels.items())
            if key in self._squares
        }


def _variance(vectors: Vectors) -> Magnitudes:
    """Variance of each entry over the checkpoints; exactly 0 where all are equal, whatever their mean rounds to."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(vectors.max(axis=0) == vectors.min(axis=0), 0.0, vectors.var(axis=0)).astype(np.float32)
