"""Losses of candidate mixes: a mix is made in memory from mixing weights, and measured by the objective.

Memory: the N checkpoints as they are stored, one mix and one gradient; with `memory="stream"` the checkpoints stay on
disk and only the mix and the gradient are held. A mix is made by the same rule, in the same order and rounding, as the
file that is written in the end: what is validated is what is kept.

A gradient's iteration reads the checkpoints twice: to mix them, and, when the gradient is there, for its products with
them. The next mix needs all products first, so the two cannot be one pass; either costs a fraction of a loss.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from xp.checkpoints.arrays import Leaf, Reader, aligned_empty
from xp.checkpoints.ranges import cut, rounded_up
from xp.errors import UserError, did_you_mean, join_names
from xp.merging.engine import BLOCK, WORKERS
from xp.merging.groups import Units
from xp.merging.merge_rules import Linear, pieces
from xp.merging.objective import Objective
from xp.merging.shapes import Shares, Table, Values

MEMORY_MODES = ("ram", "stream")


class CandidateEvaluator:
    """Losses of weighted sums of checkpoints."""

    def __init__(
        self,
        readers: Sequence[Reader],
        leaves: Mapping[str, Leaf],
        units: Units,
        objective: Objective,
        memory: str = "ram",
    ) -> None:
        """`leaves` as they will be written; `units` have mixing weights of their own.

        Raises:
            UserError: an unknown memory mode.
        """
        if memory not in MEMORY_MODES:
            raise UserError(
                f"merge.memory={memory}: allowed are {join_names(MEMORY_MODES)}{did_you_mean(memory, MEMORY_MODES)}"
            )
        self.count, self.units, self.objective = len(readers), units, objective
        self._leaves = dict(leaves)
        self._readers = readers if memory == "stream" else [_InMemoryReader(reader, leaves) for reader in readers]
        given: Mapping[str, np.ndarray] = getattr(objective, "output_buffers", dict)()
        self._mix = {name: _output_buffer(leaf, given.get(name)) for name, leaf in leaves.items()}
        for name, leaf in leaves.items():
            if not leaf.is_float:
                self._mix[name][:] = readers[0].read(name, 0, leaf.size)
        self._losses: dict[bytes, float] = {}

    def loss(self, weights: Table) -> float:
        """The objective of the mix with these weights; every mix is measured once."""
        key = np.ascontiguousarray(weights, np.float64).tobytes()
        if key not in self._losses:
            self._fill(weights)
            self._losses[key] = float(self.objective.loss(self._shaped()))
        return self._losses[key]

    def loss_and_slopes(self, weights: Table) -> tuple[float, Table]:
        """Loss, and the gradient's inner product with checkpoint minus mix, for each checkpoint within each unit.

        For w = softmax(l) the derivative is dL/dl_k = w_k <grad L, theta_k - sum_j w_j theta_j>: the common part of the
        checkpoints, far larger than their differences, never enters the product.
        """
        self._fill(weights)
        value, gradient = self.objective.loss_and_gradient(self._shaped())
        self._losses[np.ascontiguousarray(weights, np.float64).tobytes()] = float(value)
        slopes = np.zeros((self.units.count, self.count))
        names = [name for name in gradient if name in self._leaves and self._leaves[name].is_float]
        for found in self._each(lambda leaf: self._project(leaf, np.asarray(gradient[leaf.name]).reshape(-1)), names):
            for unit, products in found:
                slopes[unit] += products
        return float(value), slopes

    def _fill(self, weights: Table) -> None:
        rule = Linear(self.units, weights)
        self._each(lambda leaf: self._mix_leaf(leaf, rule), [n for n, leaf in self._leaves.items() if leaf.is_float])

    def _shaped(self) -> dict[str, np.ndarray]:
        return {name: self._mix[name].reshape(leaf.shape) for name, leaf in self._leaves.items()}

    def _each[Found](self, work: Callable[[Leaf], Found], names: Sequence[str]) -> list[Found]:
        leaves = sorted((self._leaves[name] for name in names), key=lambda leaf: -leaf.size)
        with ThreadPoolExecutor(WORKERS, "mix") as pool:
            return list(pool.map(work, leaves))

    def _mix_leaf(self, leaf: Leaf, rule: Linear) -> None:
        for start, stop in self._ranges(leaf):
            part = self._mix[leaf.name][start:stop]
            rule.apply(leaf, start, (reader.read(leaf.name, start, stop) for reader in self._readers), part)
            if leaf.dtype != part.dtype:
                part[:] = part.astype(leaf.dtype)

    def _project(self, leaf: Leaf, gradient: Values) -> list[tuple[int, Shares]]:
        """(unit, its slopes' share) for each range of a leaf."""
        unit, mix = self.units.of_leaf[leaf.name], self._mix[leaf.name]
        found = []
        for start, stop in self._ranges(leaf):
            for k, reader in enumerate(self._readers):
                values = reader.read(leaf.name, start, stop)
                for row, part in pieces(leaf, start, stop - start):
                    away = values[part].astype(np.float32) - mix[start:stop][part]
                    product = np.zeros(self.count)
                    product[k] = np.dot(away, gradient[start:stop][part])
                    found.append((int(unit[min(row, len(unit) - 1)]), product))
        return found

    def _ranges(self, leaf: Leaf) -> list[tuple[int, int]]:
        alignment = max(reader.alignment(leaf.name) for reader in self._readers)
        return list(cut(0, leaf.size, rounded_up(BLOCK, alignment)))


def _output_buffer(leaf: Leaf, given: np.ndarray | None) -> np.ndarray:
    """Where a leaf's mix is made, 1-D: what the objective gives, or memory that JAX takes as it is (aligned)."""
    wide = np.dtype(np.float64 if leaf.dtype == np.float64 else np.float32) if leaf.is_float else leaf.dtype
    if given is not None and given.dtype == wide and given.shape == leaf.shape and given.flags.c_contiguous:
        return given.reshape(-1)
    return aligned_empty((leaf.size,), wide)


class _InMemoryReader:
    """A checkpoint in memory, as it is stored."""

    def __init__(self, reader: Reader, leaves: Mapping[str, Leaf]) -> None:
        self.leaves, self.ties, self.files = reader.leaves, reader.ties, reader.files
        self._arrays = {name: _whole(reader, name, leaf.size) for name, leaf in leaves.items()}

    def alignment(self, name: str) -> int:
        return 1

    def requires_sequential_read(self, name: str) -> bool:
        return False

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._arrays[name][start:stop]


def _whole(reader: Reader, name: str, size: int) -> np.ndarray:
    """A leaf of its own, read part by part: a reader keeps a buffer as large as what it was asked for."""
    array = np.empty(size, reader.leaves[name].dtype)
    for start, stop in cut(0, size, rounded_up(BLOCK, reader.alignment(name))):
        array[start:stop] = reader.read(name, start, stop)
    return array


def finite(loss: float, what: str) -> float:
    """The loss, refused where it is no number to compare.

    Raises:
        UserError: NaN or infinite.
    """
    if not np.isfinite(loss):
        raise UserError(
            f"The loss of {what} is {loss}: nothing can be compared with it. Look at that checkpoint alone first "
            "(xp task=predict), or leave it out of merge.checkpoints."
        )
    return loss
