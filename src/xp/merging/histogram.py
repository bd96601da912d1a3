"""The k-th largest magnitudes of a stream of values, exactly, without holding the values."""

import math

import numpy as np

from xp.merging.shapes import Counts, Magnitudes

BINS = 1 << 16


class MagnitudeHistogram:
    """Magnitudes at some ranks of a stream of float32, exactly, in two passes and half a megabyte.

    A float32 without its sign orders as its bits do: the first pass counts the upper 16 bits, the second the lower ones
    of the values that share the upper bits of an answer. Ranks count from the largest, 1; they may be set as late as
    before the second pass.
    """

    def __init__(self, *ranks: int) -> None:
        """With one rank `keep`, `keep` of the values are at or above the threshold (ties may add to them)."""
        self.ranks = ranks
        self._high: Counts | None = np.zeros(BINS, np.int64)
        self._bins: list[tuple[int, int]] = []
        self._low: dict[int, Counts] = {}
        self.nonzero = 0
        """Values seen in pass 0 that are not 0."""

    def observe(self, pass_index: int, values: Magnitudes) -> None:
        """See values: all of them in pass 0, and all of them again in pass 1."""
        bits = np.abs(values).view(np.uint32)
        if pass_index == 0:
            assert self._high is not None
            self.nonzero += int(np.count_nonzero(bits))
            self._high += np.bincount(bits >> np.uint32(16), minlength=BINS)
            return
        self._settle()
        high = bits >> np.uint32(16)
        for upper, counts in self._low.items():
            counts += np.bincount(bits[high == upper] & np.uint32(0xFFFF), minlength=BINS)

    def threshold(self, which: int = 0) -> float:
        """The magnitude at a rank; infinity for rank 0."""
        if self.ranks[which] <= 0:
            return math.inf
        self._settle()
        upper, missing = self._bins[which]
        lower, _ = _from_above(self._low[upper], missing)
        return float(np.array([upper << 16 | lower], np.uint32).view(np.float32)[0])

    def _settle(self) -> None:
        """After the first pass: the bin of each rank, and how far into it the rank lies."""
        if self._high is None:
            return
        self._bins = [_from_above(self._high, rank) if rank > 0 else (0, 0) for rank in self.ranks]
        self._low = {upper: np.zeros(BINS, np.int64) for (upper, _), rank in zip(self._bins, self.ranks) if rank > 0}
        self._high = None


def _from_above(counts: Counts, wanted: int) -> tuple[int, int]:
    """The highest index from which on the counts add up to `wanted`, and how many of it those are."""
    sums = np.cumsum(counts[::-1])
    place = int(np.argmax(sums >= wanted))
    return len(counts) - 1 - place, wanted - int(sums[place - 1] if place else 0)
