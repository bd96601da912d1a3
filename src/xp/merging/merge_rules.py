# pyright: strict
"""What a merge rule is (how a method treats a range of one leaf), and the commonest one, the weighted sum."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from xp.checkpoints.arrays import Leaf
from xp.json_types import JSONObject
from xp.merging import rules
from xp.merging.groups import Units, rows_of
from xp.merging.shapes import Table, Values

type Report = dict[str, JSONObject]
"""What the data decided, by tensor; becomes part of merge.json."""


@runtime_checkable
class MergeRule(Protocol):
    """A method at work. Ranges of a leaf come in order; with `leaf_passes` > 0 all of a leaf is seen so often
    beforehand, and with `model_passes` > 0 the whole model, in any order and by several threads, before the first leaf
    is merged.
    """

    leaf_passes: int
    model_passes: int
    weights: Table
    """For the record: the coefficients of the checkpoints in each unit."""

    def alignment(self, leaf: Leaf) -> int:
        """How many consecutive elements the rule must have in one range; ranges then begin at multiples of it."""
        ...

    def observe_model(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """See elements [start, start + n) of every input."""
        ...

    def observe(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """See elements [start, start + n) of every input."""
        ...

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[Values], out: Values) -> None:
        """Write the merged elements into `out`; `arrays` are taken one by one where the rule allows it."""
        ...

    def report(self) -> Report:
        """What the data decided, by tensor, for the record; empty where weights say everything."""
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
    weights: Table
    leaf_passes: int = 0
    model_passes: int = 0

    def alignment(self, leaf: Leaf) -> int:
        """Element by element."""
        return 1

    def observe_model(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """Nothing of the whole model is asked for."""

    def observe(self, pass_index: int, leaf: Leaf, start: int, arrays: Sequence[Values]) -> None:
        """Nothing to learn from the data."""

    def report(self) -> Report:
        """The weights say everything."""
        return {}

    def apply(self, leaf: Leaf, start: int, arrays: Iterable[Values], out: Values) -> None:
        """See `rules.linear`."""
        unit = self.units.of_leaf[leaf.name]
        if len(unit) == 1:
            rules.linear(arrays, self.weights[unit[0]], out)
            return
        held = list(arrays)
        for row, part in pieces(leaf, start, len(out)):
            rules.linear([array[part] for array in held], self.weights[unit[row]], out[part])
