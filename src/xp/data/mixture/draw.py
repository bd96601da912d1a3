# pyright: strict
"""Which part of a mixture stands at which place of an endless sequence of samples: a pure function of the place.

Place n belongs to the part in whose interval of [0, 1) the point (phase + n / golden ratio) mod 1 falls; the intervals
are as long as the shares. Points of this sequence (Weyl 1916; Knuth, The Art of Computer Programming 3, 6.4: the
golden ratio spreads best) are so evenly spread that among any 1000 places in a row the number that falls into an
interval differs from 1000 times its length by less than 5, whatever the interval: 0.5% of the places, and the less the
more places there are. Random choice would be off by three times that in one of three cases.

All arithmetic is on whole numbers modulo 2^64, so nothing is rounded and any place is found at once: how many of the
places before n belong to a part is a sum of floors, which needs some hundred operations however large n is.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from xp.array_types import Ints

_MODULUS = 1 << 64
_STEP = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, odd: the multiplicative constant of Fibonacci hashing."""


class Draws:
    """The parts of a mixture along an endless sequence.

    Args:
        shares: Of each part, 0 or more, in any unit; at least one above 0.
        phase: Where the sequence begins, 0 to 2^64 - 1: another phase is another sequence of the same shares.
    """

    def __init__(self, shares: Sequence[float], phase: int) -> None:
        exact = [Fraction(share) for share in shares]
        assert all(share >= 0 for share in exact) and sum(exact) > 0, f"no shares: {list(shares)}"
        total, seen = sum(exact, Fraction(0)), Fraction(0)
        ends: list[int] = []
        for share in exact:
            seen += share
            ends.append(round(seen / total * _MODULUS))
        self.shares = tuple(float(share / total) for share in exact)
        """Of each part, adding up to 1."""
        self._ends, self._phase = ends, phase % _MODULUS
        # An end of 2^64 is beyond uint64, and every point is below it.
        self._inner = np.asarray([end for end in ends if end < _MODULUS], np.uint64)

    def parts(self, start: int, stop: int) -> Ints:
        """The part at each of the places start .. stop - 1: [stop - start] int64."""
        with np.errstate(over="ignore"):
            first = np.uint64((self._phase + start * _STEP) % _MODULUS)
            points = first + np.arange(stop - start, dtype=np.uint64) * np.uint64(_STEP)
        return np.searchsorted(self._inner, points, side="right").astype(np.int64)

    def before(self, place: int) -> tuple[int, ...]:
        """How many of the places 0 .. place - 1 belong to each part."""
        below = [_points_below(end, place, self._phase) for end in self._ends]
        return tuple(high - low for low, high in zip([0, *below], below, strict=False))

    def numbered(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """The part at each of the places start .. stop - 1, and how many places before it belong to the same part."""
        parts = self.parts(start, stop)
        numbers = np.empty(len(parts), np.int64)
        for part, before in enumerate(self.before(start)):
            here = np.flatnonzero(parts == part)
            numbers[here] = before + np.arange(len(here))
        return parts, numbers


def _points_below(end: int, count: int, phase: int) -> int:
    """How many of the first `count` points are below `end` (1 to 2^64): floor(x / M) - floor((x - end) / M) is 1 there.

    x runs over phase + k * step without the modulus M.
    """
    return _floor_sum(count, _STEP, phase) - _floor_sum(count, _STEP, phase + _MODULUS - end) + count


def _floor_sum(count: int, slope: int, offset: int) -> int:
    """The sum over k = 0 .. count - 1 of floor((slope * k + offset) / 2^64), all numbers 0 or more.

    By Euclid's algorithm (Graham, Knuth, Patashnik: Concrete Mathematics, 3.5), as in the AtCoder library.
    """
    total, modulus = 0, _MODULUS
    while count > 0:
        total += (count - 1) * count // 2 * (slope // modulus) + count * (offset // modulus)
        slope, offset = slope % modulus, offset % modulus
        highest = slope * count + offset
        if highest < modulus:
            break
        count, offset, modulus, slope = highest // modulus, highest % modulus, slope, modulus
    return total
