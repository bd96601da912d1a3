"""Random numbers of augmentation: each a pure function of a sample's seed and of what the number is for.

A sample's seed (`Batches` gives one for each position of a step) and a label ("camera/operation") start a sequence of
SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), so a number does not
depend on the other samples of a batch, on other cameras, or on which other operations there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Draws:
    """Uniform numbers for a batch of samples and one label."""

    seeds: UInt64[np.ndarray, " batch"]
    label: str

    def uniform(self, number: int) -> Float64[np.ndarray, " batch"]:
        """The `number`-th number (from 0) of each sample, uniform on [0, 1) with 53 bits."""
        start = np.uint64(int.from_bytes(sha256(self.label.encode()).digest()[:8], "little"))
        state = _mixed((self.seeds ^ start) + np.uint64(_STEP * (number + 1) % 2**64))
        return (state >> np.uint64(11)) * 2.0**-53

    def between(self, number: int, bounds: tuple[float, float]) -> Float64[np.ndarray, " batch"]:
        """The `number`-th number, uniform between two bounds."""
        low, high = bounds
        return low + (high - low) * self.uniform(number)


def chosen(
    draws: Draws, weights: Sequence[float], count: int, *, random_order: bool
) -> Int64[np.ndarray, "batch count"]:
    """For each sample `count` different numbers of 0..len(weights)-1: drawn by weight, one after the other.

    The `count` smallest of exponential times with rates `weights` are such a draw without replacement, in the order
    drawn (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).

    Args:
        draws: uniform numbers, one for each weight.
        weights: above 0.
        count: at most as many as there are weights.
        random_order: leave the order as drawn; else numbers rise.
    """
    times = np.stack([-np.log1p(-draws.uniform(i)) / weight for i, weight in enumerate(weights)], axis=1)
    order = np.argsort(times, axis=1, kind="stable")[:, :count]
    return order if random_order else np.sort(order, axis=1)


def happens(draws: Draws, number: int, probability: float) -> Bool[np.ndarray, " batch"]:
    """Whether something of a probability happens to each sample."""
    return draws.uniform(number) < probability


def _mixed(state: UInt64[np.ndarray, " batch"]) -> UInt64[np.ndarray, " batch"]:
    """SplitMix64's mixing function (variant 13 of D. Stafford's)."""
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
