# pyright: strict
"""What a merge is judged by: a loss of named weights, and its gradient where there is one.

Methods that choose weights (`inverse_loss`, `greedy`, the gradient methods) ask an `Objective` and know nothing of
policies, datasets or frameworks. An objective that is honest to compare candidates with is deterministic: the same
samples, the same noise and the same times for every candidate, so that two losses differ by the weights alone.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from xp.checkpoints.arrays import AnyArray

Weights = Mapping[str, AnyArray]
"""Named arrays: the names and shapes of the first checkpoint's format; floats as float32, other types as stored."""


@runtime_checkable
class Objective(Protocol):
    """A deterministic number to make small. `name` says what it is, for merge.json and messages.

    Both methods must only read `weights`: the arrays are views into buffers that are reused after the call returns,
    so an objective that keeps them must copy them (putting them on a device does).

    An objective may also have `output_buffers() -> Mapping[str, AnyArray]`: writable arrays, of the weights' names
    and shapes, that it measures where they lie. Mixes are then made in them, and no copy of the weights stands between.
    """

    name: str

    def loss(self, weights: Weights) -> float:
        """The loss of these weights over the whole validation set."""
        ...

    def loss_and_gradient(self, weights: Weights) -> tuple[float, Mapping[str, AnyArray]]:
        """The same loss, and its gradient with respect to each float weight (same names and shapes, float32).

        A name that is left out counts as a gradient of zero. The arrays need to hold until the next call only.

        Raises:
            UserError: the objective has no gradient; make the error with `xp.merging.method.without_gradient`.
        """
        ...
