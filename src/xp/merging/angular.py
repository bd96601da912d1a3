"""The rules of methods that work with angles between tensors: slerp, nuslerp, karcher and model_stock."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from xp.checkpoints.arrays import Leaf
from xp.merging import rules
from xp.merging.groups import Units, rows_of
from xp.merging.merge_rules import Report, pieces
from xp.merging.shapes import Entries, Products, Shares, Table, Values
from xp.merging.trims import Tensor


@dataclass
class Angular:
    """Weighted sums whose weights come from the angles within each tensor or layer."""

    kind: str
    units: Units
    weights: Table
    """karcher's shares; for slerp and nuslerp [1 - t, t]; for model_stock equal."""
    relative: bool = False
    """Whether the first input is a base, and the angles are those between task vectors."""
    leaf_passes: int = 1
    model_passes: int = 0
    _products: dict[tuple[str, int], Products] = field(default_factory=dict)
    _found: Report = field(default_factory=dict)

    def alignment(self, leaf: Leaf) -> int:
        """Element by element."""
        return 1

    def observe_model(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """Nothing of the whole model is asked for."""

    def observe(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """Add up inner products, layer by layer."""
        base, tuned = (arrays[0], arrays[1:]) if self.relative else (None, arrays)
        for row, part in pieces(leaf, start, len(arrays[0])):
            found = rules.gram([array[part] for array in tuned], None if base is None else base[part])
            self._products[leaf.name, row] = self._products.get((leaf.name, row), 0.0) + found

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[Values], out: Values) -> None:
        """See `rules.linear`, with the weights of each layer's angles."""
        held = list(arrays)
        unit = self.units.of_leaf[leaf.name]
        for row, part in pieces(leaf, start, len(out)):
            weights = self._coefficients(Tensor(leaf, row), self.weights[unit[min(row, len(unit) - 1)]])
            rules.linear([array[part] for array in held], weights, out[part])

    def report(self) -> Report:
        """For each tensor: what every input was multiplied with, the base first where there is one, and the angles."""
        return dict(sorted(self._found.items()))

    def _coefficients(self, tensor: Tensor, weights: Shares) -> Float64[np.ndarray, " inputs"]:
        products = self._products[tensor.leaf.name, tensor.row]
        if not np.isfinite(products).all():  # an input is not finite: let the result say so
            return np.full(len(weights) + self.relative, np.nan)
        extra: dict[str, float] = {}
        if self.kind in ("slerp", "nuslerp"):
            closest = rules.PARALLEL if self.kind == "slerp" else rules.NEARLY_ONE
            found = rules.slerp_weights(products, float(weights[1]), closest)
        elif self.kind == "karcher":
            found = rules.karcher_weights(products, weights.tolist())
        else:
            ratio = rules.model_stock_ratio(products)
            extra = {"ratio": ratio}
            found = ratio * weights
        if self.relative:
            found = np.array([1.0 - (extra["ratio"] if "ratio" in extra else found.sum()), *found])
        self._found[tensor.label] = {"coefficients": found.tolist(), "cosines": _cosines(products), **extra}
        return found


@dataclass
class Lines:
    """nuslerp line by line: each line along an axis of a tensor is a vector with an angle of its own."""

    units: Units
    weights: Table
    """[1 - t, t] for each unit."""
    along: str
    """last or first"""
    relative: bool
    leaf_passes: int = 1
    model_passes: int = 0
    _products: dict[str, Float64[np.ndarray, "3 lines"]] = field(default_factory=dict)

    def alignment(self, leaf: Leaf) -> int:
        """Element by element."""
        return 1

    def observe_model(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """Nothing of the whole model is asked for."""

    def observe(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """Add up inner products [3, lines]: of the first with itself, of both, of the second with itself."""
        first, second = self._pair(arrays)
        lines, count = self._lines(leaf, start, len(first))
        known = self._products.setdefault(leaf.name, np.zeros((3, count)))
        low, high = (int(lines.min()), int(lines.max()) + 1) if len(lines) else (0, 0)
        for total, product in zip(known, (first * first, first * second, second * second)):
            total[low:high] += np.bincount(lines - low, weights=product, minlength=high - low)

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[Values], out: Values) -> None:
        """The base, if there is one, plus both vectors with the coefficients of their lines."""
        held = list(arrays)
        first, second = self._pair(held)
        lines, count = self._lines(leaf, start, len(out))
        unit = self.units.of_leaf[leaf.name]
        of_line = unit[np.arange(count) * len(unit) // count] if len(unit) > 1 else np.full(count, unit[0])
        coefficients = rules.line_weights(self._products[leaf.name], self.weights[of_line, 1])
        origin = held[0].astype(np.float64) if self.relative else 0.0
        out[:] = origin + coefficients[0][lines] * first + coefficients[1][lines] * second

    def report(self) -> Report:
        """For each leaf: how many lines, and the range of their cosines."""
        found = {}
        for name, products in sorted(self._products.items()):
            norms = np.sqrt(products[0] * products[2])
            cosines = products[1][norms > 0] / norms[norms > 0]
            span = [float(cosines.min()), float(cosines.max())] if len(cosines) else None
            found[name] = {"lines": products.shape[1], "cosines": span}
        return found

    def _pair(self, arrays: Sequence[Values]) -> tuple[Entries, Entries]:
        if self.relative:
            return rules.task_vector(arrays[0], arrays[1]), rules.task_vector(arrays[0], arrays[2])
        return arrays[0].astype(np.float64), arrays[1].astype(np.float64)

    def _lines(self, leaf: Leaf, start: int, count: int) -> tuple[Int64[np.ndarray, " {count}"], int]:
        """The line of each element [n], and how many lines the leaf has: layer by layer."""
        rows = rows_of(leaf)
        shape = leaf.shape[1:] if rows > 1 else leaf.shape
        size = math.prod(shape)
        places = np.arange(start, start + count)
        if not shape or not size:
            return np.zeros(count, np.int64), 1
        if self.along == "last":
            return places // shape[-1], leaf.size // shape[-1]
        across = size // shape[0]
        return places // size * across + places % across, rows * across


def _cosines(products: Products) -> list[list[float | None]]:
    norms = np.sqrt(np.diag(products))
    scale = np.outer(norms, norms)
    known = np.divide(products, scale, out=np.full_like(products, np.nan), where=scale > 0)
    return [[None if np.isnan(value) else float(value) for value in row] for row in known]
