"""Brings actions and states to [-1, 1] by the quantiles of a dataset, and actions back. Pure numpy.

OpenVLA's rule ("BOUNDS_Q99" of its data loading): the 1% quantile becomes -1, the 99% quantile +1, what lies beyond is
clipped. Dimensions outside the mask, as a gripper of 0..1, stay as they are. OpenVLA-OFT takes the extremes instead
("BOUNDS") for some robots, and adds 1e-8 on the way back too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from xp.errors import UserError, join_names
from xp.foreign.statistics import FeatureStatistics, GroupStatistics, checked_statistics
from xp.models.policy import Statistics

EPS = 1e-8
"""Upstream's: keeps a dimension that never changes from dividing by 0."""
ENDS: Mapping[str, tuple[str, str]] = {"bounds_q99": ("q01", "q99"), "bounds": ("min", "max")}
"""Which statistics become -1 and +1, by the names that OpenVLA-OFT's constants have for it."""
ENTRIES = ("mean", "std", "max", "min", "q01", "q99", "mask")
"""What a feature of `norm_stats` has; `mask` of actions alone."""


@dataclass(frozen=True)
class Bounds:
    """What becomes -1 and +1 in each dimension, and which dimensions that applies to."""

    low: Float64[np.ndarray, " dim"]
    high: Float64[np.ndarray, " dim"]
    mask: Bool[np.ndarray, " dim"]
    is_constant: Bool[np.ndarray, " dim"]
    """Dimensions that never changed: 0 when normalised, as upstream has it."""
    eps_back: float = 0.0
    """What is added to the range on the way back."""

    @classmethod
    def of(cls, entry: object, where: str, ends: str = "bounds_q99", eps_back: float = 0.0) -> "Bounds":
        """The bounds of one feature of `norm_stats`.

        Args:
            entry: as JSON gives it.
            where: what it is, for the message.
            ends: a key of `ENDS`.
            eps_back: see the field.

        Raises:
            UserError: no such statistics, or numbers that cannot be right (see `xp.foreign.statistics`).
        """
        found = checked_statistics(entry, where)
        missing = [name for name in ENDS[ends] if name not in found]
        if missing:
            raise UserError(
                f"The statistics {where} have no {missing[0]}, by which OpenVLA normalises; they have "
                f"{join_names(found)}. Give the dataset_statistics.json that was saved with the policy."
            )
        low, high = (found[name].astype(np.float64) for name in ENDS[ends])
        extremes = (found["min"], found["max"]) if "min" in found and "max" in found else (low, high)
        mask = found.get("mask", np.ones(low.shape, bool))
        return cls(low, high, mask, extremes[0] == extremes[1], eps_back)

    def normalize(self, values: Float[np.ndarray, "*lead dim"]) -> Float32[np.ndarray, "*lead dim"]:
        """clip(2 (x - low) / (high - low + 1e-8) - 1, -1, 1)."""
        scaled = 2 * (values - self.low) / (self.high - self.low + EPS) - 1
        inside = np.where(self.is_constant, 0.0, np.clip(scaled, -1, 1))
        return np.where(self.mask, inside, values).astype(np.float32)

    def unnormalize(self, values: Float[np.ndarray, "*lead dim"]) -> Float32[np.ndarray, "*lead dim"]:
        """(x + 1) / 2 (high - low + eps_back) + low."""
        wide = values.astype(np.float64)
        span = self.high - self.low + self.eps_back
        return np.where(self.mask, 0.5 * (wide + 1) * span + self.low, wide).astype(np.float32)


def norm_stats(statistics: Statistics | GroupStatistics, kept: Bool[np.ndarray, " action"]) -> dict[str, object]:
    """An entry of `norm_stats`, one dataset's, of the statistics that xp makes of its training episodes.

    A dimension whose quantiles are equal though it changes (a gripper that is rarely closed) is bounded by its
    extremes: by the quantiles its two positions would be one.

    Args:
        statistics: of the training episodes.
        kept: actions that stay as they are: their mask is false. Any other constant is its own quantile, which gives
            it back exactly.
    """
    action, proprio = (_entry(statistics[name]) for name in ("action", "proprio"))
    return {
        "action": {**action, "mask": ~kept},
        "proprio": proprio,
        "num_transitions": int(statistics.get("num_transitions", 0)),
        "num_trajectories": int(statistics.get("num_trajectories", 0)),
    }


def _entry(feature: FeatureStatistics) -> dict[str, np.ndarray]:
    found = {name: np.asarray(feature[name], np.float32) for name in ("mean", "std", "max", "min")}
    low, high = (np.asarray(feature[name], np.float32) for name in ("p01", "p99"))
    same = low == high
    return {**found, "q01": np.where(same, found["min"], low), "q99": np.where(same, found["max"], high)}


def grippers(names: tuple[str, ...], statistics: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " action"]:
    """Which actions are a gripper's and within [-1, 1] already: they stay as they are, as upstream's masks have it.

    Args:
        names: of the actions; empty where the dataset has none: the last of seven is a gripper's, as in every dataset
            that OpenVLA was trained on.
        statistics: of the actions.
    """
    low, high = (np.asarray(statistics[name]) for name in ("min", "max"))
    count = len(low)
    if len(names) == count:
        is_gripper = np.array(["grip" in name.lower() for name in names], bool)
    else:
        is_gripper = np.arange(count) == 6 if count == 7 else np.zeros(count, bool)
    return is_gripper & (low >= -1) & (high <= 1) & (low < high)
