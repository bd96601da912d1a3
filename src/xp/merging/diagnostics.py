"""Warns where checkpoints look like different skills: angles and distances between them, by group of weights.

Measured on a thirtieth of the weights while they stream past: 2048 of every 65536 elements. With a base, the cosines
are those between task vectors; without one there is no origin to measure angles from, and distances are all there is.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Float64

from xp.checkpoints.arrays import Leaf
from xp.merging.groups import group_of
from xp.merging.shapes import Products, Values

FEWEST_ELEMENTS = 1000
"""A group with fewer sampled elements is reported, not judged."""
LOW_COSINE = 0.1
"""Task vectors that share less direction than this look like those of different skills (nearly orthogonal)."""
FAR_APART = 1.0
"""Pairs further apart than the weights themselves are long have little in common."""
BARRIER = 0.2
"""A midpoint this much (relatively) worse than the mean of its two ends: they lie in different basins."""


class GroupAngles(TypedDict):
    """How far apart the checkpoints are in one group of weights; lists of lists are [N, N]."""

    sampled_elements: int
    distance: list[list[float]]
    """Relative to the length of the base, or of the mean where there is none."""
    task_vector_length: NotRequired[list[float]]
    """[N], relative to the length of the base."""
    cosine: NotRequired[list[list[float]]]
    """Between task vectors."""


class Barrier(TypedDict):
    """The loss half-way between two checkpoints, and how far it is above the mean of their losses."""

    pair: list[int]
    midpoint: float
    barrier: float


class Angles:
    """Sums of products of the sampled elements, by group; several threads may add."""

    def __init__(self, groups: Mapping[str, Sequence[str]], *, has_base: bool) -> None:
        self._groups, self._has_base = groups, has_base
        self._products: dict[str, Products] = {}
        self._length: dict[str, float] = {}
        self._count: dict[str, int] = {}
        self._lock = threading.Lock()

    def sample(self, leaf: Leaf, arrays: Sequence[Values]) -> None:
        """Add sampled elements of a leaf: the base first where there is one."""
        rows = np.stack(arrays).astype(np.float64)
        origin = rows[0] if self._has_base else rows.mean(axis=0)
        away = (rows[1:] if self._has_base else rows) - origin
        products, length = inner_products(away), float(np.einsum("k,k->", origin, origin))
        group = group_of(leaf.name, self._groups)
        with self._lock:
            self._products[group] = self._products.get(group, 0.0) + products
            self._length[group] = self._length.get(group, 0.0) + length
            self._count[group] = self._count.get(group, 0) + rows.shape[1]

    def report(self) -> dict[str, GroupAngles]:
        """The angles and distances by group."""
        return {group: self._of(group) for group in sorted(self._products)}

    def _of(self, group: str) -> GroupAngles:
        products, length = self._products[group], max(self._length[group], 1e-300)
        squares = np.diag(products)
        distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * products, 0.0) / length)
        found = GroupAngles(sampled_elements=self._count[group], distance=distances.tolist())
        if self._has_base:
            norms = np.sqrt(squares)
            scale = np.outer(norms, norms)
            cosines = np.divide(products, scale, out=np.full_like(products, np.nan), where=scale > 0)
            found["task_vector_length"] = np.sqrt(squares / length).tolist()
            found["cosine"] = cosines.tolist()
        return found


def inner_products(rows: Float64[np.ndarray, "models elements"]) -> Products:
    """Of the rows of a few models, in the calling thread alone: BLAS would wake threads that spin for more work."""
    found = np.empty((len(rows), len(rows)))
    for i, row in enumerate(rows):
        for j in range(i + 1):
            found[i, j] = found[j, i] = np.einsum("k,k->", row, rows[j])
    return found


def midpoints(losses: Mapping[tuple[int, int], float], singles: Sequence[float]) -> list[Barrier]:
    """The loss barrier of each pair: the loss half-way, less the mean of the two ends' losses."""
    return [
        Barrier(pair=list(pair), midpoint=loss, barrier=loss - (singles[pair[0]] + singles[pair[1]]) / 2)
        for pair, loss in sorted(losses.items())
    ]


def warnings(angles: Mapping[str, GroupAngles], barriers: Sequence[Barrier], ends: Sequence[float]) -> list[str]:
    """What looks like averaging different skills, in words."""
    said = []
    for group, entry in angles.items():
        if entry["sampled_elements"] < FEWEST_ELEMENTS:
            continue
        if "cosine" in entry:
            low = _lowest(np.asarray(entry["cosine"]))
            if low is not None and low[2] < LOW_COSINE:
                said.append(
                    f"{group}: the task vectors of checkpoints {low[0]} and {low[1]} point different ways (cosine "
                    f"{low[2]:.2f} < {LOW_COSINE})"
                )
        else:
            far = _lowest(-np.asarray(entry["distance"]))
            if far is not None and -far[2] > FAR_APART:
                said.append(
                    f"{group}: checkpoints {far[0]} and {far[1]} are {-far[2]:.2f} times the weights' own length apart"
                )
    for entry in barriers:
        i, j = entry["pair"]
        height = entry["barrier"] / max(abs(ends[i] + ends[j]) / 2, 1e-12)
        if height > BARRIER:
            said.append(f"half-way between checkpoints {i} and {j} the loss is {height:.0%} above their mean")
    return [f"This looks like averaging different skills, which gives a policy with neither. {text}." for text in said]


def alike(contents: Sequence[str], names: Sequence[str], *, has_base: bool) -> list[str]:
    """What holds the same weights as something before it, in words: it counts twice, or adds nothing to its base."""
    said = []
    for k, content in enumerate(contents):
        first = contents.index(content)
        if first == 0 and k > 0 and has_base:
            said.append(
                f"{names[k]} holds the same weights as merge.base: nothing was added to it, so it adds nothing."
            )
        elif first < k:
            said.append(
                f"{names[k]} holds the same weights as {names[first]}, so they count twice. If that is meant, give it "
                "once with a larger weight (merge.weights)."
            )
    return said


def _lowest(square: Products) -> tuple[int, int, float] | None:
    """The smallest entry off the diagonal: (row, column, value)."""
    upper = [(i, j, float(square[i, j])) for i in range(len(square)) for j in range(i + 1, len(square))]
    known = [entry for entry in upper if entry[2] == entry[2]]
    return min(known, key=lambda entry: entry[2]) if known else None
