# pyright: strict
"""Training on a few batches over and over, to check that a model can learn at all."""

from typing import Protocol, runtime_checkable

from xp.models.policy import Batch


@runtime_checkable
class StepBatches(Protocol):
    """What the loop needs of the training data: the batch of a step, as a pure function of the step."""

    def at(self, step: int) -> Batch:
        """The batch of `step` (counted from 0)."""
        ...

    def epoch(self, step: int) -> float:
        """How many times the data has been seen when `step` steps are done."""
        ...


class Overfit:
    """The first `count` batches of `batches`, repeated for ever."""

    def __init__(self, batches: StepBatches, count: int):
        self._batches, self._count = batches, count

    def at(self, step: int) -> Batch:
        """The batch of `step % count`."""
        return self._batches.at(step % self._count)

    def epoch(self, step: int) -> float:
        """How many times all `count` batches have been seen when `step` steps are done."""
        return step / self._count
