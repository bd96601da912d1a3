"""Training batches as a pure function of (dataset, seed, step), and validation batches in order."""

from collections.abc import Iterable, Iterator
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Int, UInt64

from xp.data.windows import Batch, NumberedWindows
from xp.errors import UserError

_ORDER, _DROP, _AUGMENT = 0, 1, 2
"""Streams of random numbers that must not meet."""


def random_words(seed: int, stream: int, number: int, count: int) -> UInt64[np.ndarray, " {count}"]:
    """`count` uniform uint64 words, a pure function of the arguments.

    Raw Philox words (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): NumPy promises that bit
    generators and SeedSequence never change (NEP 19), which it does not for `Generator.permutation`.
    """
    return np.random.Philox(np.random.SeedSequence([seed, stream, number])).random_raw(count)


class Batches:
    """An endless sequence of training batches: shuffled epochs without replacement, laid end to end.

    Batch k holds positions kB .. kB+B-1 of that sequence, so every batch is full, every epoch shows every window
    exactly once, and a batch may end one epoch and begin the next. Nothing depends on what was asked before: resuming
    at a step needs the step alone.

    Args:
        windows: The windows to draw from.
        batch_size: B.
        seed: Any non-negative integer.
        drop_rate: With this probability per sample `observation_is_dropped` is True; the key is there only if > 0.
        augment: Whether each sample gets a seed for `xp.data.augment`, the key `augment_seed`: a pure function of
            `seed`, the step and the position in the batch.

    Raises:
        UserError: a batch size below 1, a negative seed, or a rate outside [0, 1].
    """

    def __init__(
        self, windows: NumberedWindows, *, batch_size: int, seed: int, drop_rate: float = 0.0, augment: bool = False
    ) -> None:
        if batch_size < 1:
            raise UserError(f"trainer.batch_size={batch_size} is not possible. Type trainer.batch_size=1 or more.")
        if seed < 0:
            raise UserError(f"seed={seed} is not possible: seeds are 0 or more. Type for instance seed=0.")
        if not 0 <= drop_rate <= 1:
            raise UserError(f"obs_dropout.rate={drop_rate} is not a probability. Type a number from 0 to 1.")
        self.windows = windows
        self.batch_size = batch_size
        self.seed = seed
        self.drop_rate = drop_rate
        self.augment = augment
        # Two epochs are enough: a step touches at most two unless a batch is larger than the data.
        # Of no method of this object, which would then hold itself, and the frames' processes, until a collection.
        self._order = lru_cache(maxsize=2)(partial(_shuffled, seed, len(windows)))

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every window has been seen at least once."""
        return -(-len(self.windows) // self.batch_size)

    def epoch(self, step: int) -> float:
        """How many times the data has been seen when `step` steps are done; 1.5 is half-way through the second."""
        return step * self.batch_size / len(self.windows)

    def indices(self, step: int) -> Int[np.ndarray, " batch"]:
        """The window numbers [B] int64 of the batch at `step` (from 0)."""
        if step < 0:
            raise IndexError(f"steps count from 0, asked for {step}")
        epoch, place = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), len(self.windows))
        if epoch[0] == epoch[-1]:
            return self._order(int(epoch[0]))[place]
        return np.concatenate([self._order(e)[place[epoch == e]] for e in range(int(epoch[0]), int(epoch[-1]) + 1)])

    def at(self, step: int) -> Batch:
        """The batch at `step` (from 0); keys as in `xp.models.policy.Batch`."""
        expect_next(self.windows, map(self.indices, range(step, step + 1 + self.windows.look_ahead)))
        batch = self.windows.batch(self.indices(step))
        if self.drop_rate > 0:
            # 53 bits, as many as a float64 holds exactly.
            uniform = (random_words(self.seed, _DROP, step, self.batch_size) >> np.uint64(11)) * 2.0**-53
            batch["observation_is_dropped"] = uniform < self.drop_rate
        if self.augment:
            batch["augment_seed"] = random_words(self.seed, _AUGMENT, step, self.batch_size)
        return batch


def _shuffled(seed: int, count: int, epoch: int) -> Int[np.ndarray, " windows"]:
    """The order of `count` windows in one epoch: sorted by random 64-bit keys, ties (never, in practice) by number."""
    return np.argsort(random_words(seed, _ORDER, epoch, count), kind="stable")


class Ordered:
    """Batches of windows in the order of `indices`; the last batch may be smaller. `len()` is how many there are."""

    def __init__(self, windows: NumberedWindows, batch_size: int, indices: Int[np.ndarray, " chosen"]) -> None:
        self.windows = windows
        self.batch_size = batch_size
        self.indices = indices

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self)):
            ahead = range(number, min(number + 1 + self.windows.look_ahead, len(self)))
            expect_next(self.windows, map(self._part, ahead))
            yield self.windows.batch(self._part(number))

    def _part(self, number: int) -> Int[np.ndarray, " part"]:
        return self.indices[number * self.batch_size : (number + 1) * self.batch_size]


def expect_next(windows: NumberedWindows, parts: Iterable[Int[np.ndarray, " batch"]]) -> None:
    """Announce the next batches, the one that is asked for first, where that is worth anything."""
    if windows.look_ahead:
        for indices in parts:
            windows.expect(indices)


def in_order(windows: NumberedWindows, batch_size: int, limit: int | None = None) -> Ordered:
    """Go through windows in order, once: all of them, or `limit` of them spread evenly over all.

    Args:
        windows: The windows.
        batch_size: Windows per batch; the last batch holds what is left.
        limit: How many windows at most; None for all.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise UserError(f"Batches of {batch_size} windows, at most {limit} in all, are not possible: type 1 or more.")
    count = len(windows) if limit is None else min(limit, len(windows))
    return Ordered(windows, batch_size, np.arange(count) * len(windows) // count)
