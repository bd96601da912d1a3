"""Which entries of a task vector are kept, and what they are multiplied by: a class for each way of thinning out.

Each is asked tensor by tensor (or layer by layer), for each checkpoint k, with float64 entries in order. What needs to
know a whole tensor first is shown it beforehand (`leaf_passes`), what needs the whole model is shown all of it
(`model_passes`).
Entries are multiplied by their factor, 0 where they are dropped: NaN and infinity stay to be found.
"""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from zlib import crc32

import numpy as np

from xp.checkpoints.arrays import Leaf
from xp.json_types import JSON
from xp.merging.groups import rows_of
from xp.merging.histogram import MagnitudeHistogram
from xp.merging.rules import uniform_draws
from xp.merging.shapes import Entries

NODE_MOST = 1 << 20
"""Entries of one node, ranked together, where more of its axes than the last one are taken."""


@dataclass(frozen=True)
class Tensor:
    """What a rule sees as one tensor: a leaf, or one layer (`row`) of a stacked leaf."""

    leaf: Leaf
    row: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.leaf.size // rows_of(self.leaf)

    @property
    def label(self) -> str:
        """Its name in merge.json."""
        return f"{self.leaf.name}[{self.row}]" if rows_of(self.leaf) > 1 else self.leaf.name


def node_size(leaf: Leaf) -> int:
    """How many entries of a tensor belong to one node: the last axis; of more than two axes (convolutions) all but the
    first, as long as they are at most `NODE_MOST`. A vector is one node.
    """
    shape = leaf.shape[1:] if rows_of(leaf) > 1 else leaf.shape
    joined = int(np.prod(shape[1:])) if len(shape) > 2 else 0
    return max(1, joined if 0 < joined <= NODE_MOST else shape[-1] if shape else 1)


@runtime_checkable
class Trim(Protocol):
    """A way of thinning out."""

    leaf_passes: int
    model_passes: int

    def observe(self, pass_index: int, tensor: Tensor, k: int, vector: Entries) -> None:
        """See entries [n] of checkpoint k's task vector; by several threads at once in a survey."""
        ...

    def factor(self, tensor: Tensor, k: int, start: int, vector: Entries) -> Entries | None:
        """[n] by what the entries from element `start` of the leaf on are multiplied; None: all stay as they are."""
        ...

    def alignment(self, leaf: Leaf) -> int:
        """How many consecutive entries `factor` must see together."""
        ...

    def report(self, tensor: Tensor) -> dict[str, JSON]:
        """What was found out about a tensor, for the record."""
        ...


class Whole:
    """Nothing is dropped."""

    leaf_passes = model_passes = 0

    def observe(self, pass_index: int, tensor: Tensor, k: int, vector: Entries) -> None:
        """Nothing to learn."""

    def factor(self, tensor: Tensor, k: int, start: int, vector: Entries) -> None:
        """All entries as they are."""
        return

    def alignment(self, leaf: Leaf) -> int:
        """One by one."""
        return 1

    def report(self, tensor: Tensor) -> dict[str, JSON]:
        """Nothing."""
        return {}


@dataclass
class Largest:
    """The largest entries by magnitude, the very largest perhaps without.

    TIES keeps the density's share of them (Yadav et al., arXiv 2306.01708, section 4.1). Breadcrumbs drops the largest
    share gamma as outliers first (Davari & Belilovsky, arXiv 2312.06795, section 3). Counts are rounded down as
    mergekit's are, at least one entry stays, and entries equal to the last one kept stay with it.
    """

    density: Sequence[float]
    """[N] share that is kept."""
    gamma: Sequence[float] | None = None
    """[N] share of outliers; they give way where density + gamma is more than 1."""
    whole_model: int = 0
    """Number of entries of the whole model, where its largest are kept; 0: those of each tensor."""
    leaf_passes: int = 0
    model_passes: int = 0
    _histograms: dict[tuple[str, int, int], MagnitudeHistogram] = field(default_factory=dict)
    _bounds: dict[tuple[str, int, int], tuple[float, float]] = field(default_factory=dict)
    _lock: AbstractContextManager[object] = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        turns = 2 if min(self.density) < 1 else 0
        self.leaf_passes, self.model_passes = (0, turns) if self.whole_model else (turns, 0)

    def observe(self, pass_index: int, tensor: Tensor, k: int, vector: Entries) -> None:
        """Count magnitudes."""
        if self.density[k] >= 1:
            return
        key = self._key(tensor, k)
        values = vector.astype(np.float32)
        if not self.whole_model:
            self._histogram(key, tensor.size).observe(pass_index, values)
            return
        with self._lock:
            self._histogram(key, self.whole_model).observe(pass_index, values)

    def factor(self, tensor: Tensor, k: int, start: int, vector: Entries) -> Entries | None:
        """1 for what is kept."""
        if self.density[k] >= 1:
            return None
        low, high = self._bounds_of(self._key(tensor, k))
        magnitude = np.abs(vector).astype(np.float32)
        return ((magnitude >= np.float32(low)) & (magnitude <= np.float32(high))).astype(np.float64)

    def alignment(self, leaf: Leaf) -> int:
        """One by one."""
        return 1

    def report(self, tensor: Tensor) -> dict[str, JSON]:
        """The magnitudes between which entries are kept."""
        known = [self._bounds.get(self._key(tensor, k)) for k in range(len(self.density))]
        found: dict[str, JSON] = {"least_kept": [0.0 if bounds is None else bounds[0] for bounds in known]}
        if self.gamma is not None:
            found["largest_kept"] = [None if bounds is None or bounds[1] == np.inf else bounds[1] for bounds in known]
        return found

    def _key(self, tensor: Tensor, k: int) -> tuple[str, int, int]:
        return ("", 0, k) if self.whole_model else (tensor.leaf.name, tensor.row, k)

    def _histogram(self, key: tuple[str, int, int], size: int) -> MagnitudeHistogram:
        if key not in self._histograms:
            kept = max(1, int(self.density[key[2]] * size))
            outliers = 0 if self.gamma is None else min(int(self.gamma[key[2]] * size), size - kept)
            first = outliers + 1 if outliers else 0
            self._histograms[key] = MagnitudeHistogram(outliers + kept, first)
        return self._histograms[key]

    def _bounds_of(self, key: tuple[str, int, int]) -> tuple[float, float]:
        """Once known, two numbers stay of a histogram."""
        with self._lock:
            if key not in self._bounds:
                found = self._histograms.pop(key)
                self._bounds[key] = found.threshold(0), found.threshold(1)
            return self._bounds[key]


@dataclass
class Random:
    """Each entry with a probability, whatever it is (DARE: Yu et al., arXiv 2311.03099, section 3.2)."""

    density: Sequence[float]
    """[N] probability that an entry is kept."""
    seed: int
    divide: bool = True
    """Divide what is kept by its probability, so that sums stay as they are in expectation."""
    leaf_passes: int = 0
    model_passes: int = 0

    def observe(self, pass_index: int, tensor: Tensor, k: int, vector: Entries) -> None:
        """Nothing to learn."""

    def factor(self, tensor: Tensor, k: int, start: int, vector: Entries) -> Entries | None:
        """1 / probability for what is kept."""
        if self.density[k] >= 1:
            return None
        odds = self.probability(tensor, k, vector)
        kept = uniform_draws(self._key(tensor, k), start, len(vector)) >= 1 - odds
        return kept / odds if self.divide else kept.astype(np.float64)

    def probability(self, tensor: Tensor, k: int, vector: Entries) -> Entries | float:
        """Of each entry, or one for all."""
        return self.density[k]

    def alignment(self, leaf: Leaf) -> int:
        """One by one."""
        return 1

    def report(self, tensor: Tensor) -> dict[str, JSON]:
        """Nothing but the shares that were kept, which are counted where they are used."""
        return {}

    def _key(self, tensor: Tensor, k: int) -> int:
        return (self.seed << 64) | (crc32(tensor.leaf.name.encode()) << 32) | k


@dataclass
class Ranked(Random):
    """Each entry with a probability that grows with its rank among the magnitudes of its node.

    MAGPRUNE of DELLA (Deep et al., arXiv 2406.11617, section 3.1): from density - epsilon for a node's smallest entry
    to density + epsilon for its largest (epsilon is half the paper's, as in mergekit). See `node_size`.
    """

    epsilon: Sequence[float] = ()
    """[N] how far probabilities go from the density."""

    def probability(self, tensor: Tensor, k: int, vector: Entries) -> Entries:
        """Of each entry, for whole nodes."""
        width = node_size(tensor.leaf)
        magnitudes = np.abs(vector).reshape(-1, width)
        order = np.argsort(magnitudes, axis=1, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(width)[None], axis=1)
        share = ranks / (width - 1) if width > 1 else np.full(ranks.shape, 0.5)
        return (self.density[k] + self.epsilon[k] * (2 * share - 1)).reshape(-1)

    def alignment(self, leaf: Leaf) -> int:
        """Whole nodes."""
        return node_size(leaf)
