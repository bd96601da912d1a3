"""Normalises actions and states by dataset statistics: Octo's NORMAL rule, for any family. Pure numpy."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from xp.errors import UserError, join_names
from xp.foreign.statistics import checked_statistics


@dataclass(frozen=True)
class Normal:
    """Mean and deviation of each dimension; where `mask` is False a dimension is left as it is."""

    mean: Float32[np.ndarray, " dim"]
    std: Float32[np.ndarray, " dim"]
    mask: Bool[np.ndarray, " dim"]

    def normalize(self, values: Float[np.ndarray, "*lead dim"]) -> Float32[np.ndarray, "*lead dim"]:
        """(x - mean) / (std + 1e-8), float32, last axis = dimensions."""
        scaled = (values - self.mean) / (self.std + np.float32(1e-8))
        return np.where(self.mask, scaled, values).astype(np.float32)

    def unnormalize(self, values: Float[np.ndarray, "*lead dim"]) -> Float32[np.ndarray, "*lead dim"]:
        """X * std + mean, float32 (Octo's inverse has no epsilon; see `scale`)."""
        return np.where(self.mask, values * self.scale + self.mean, values).astype(np.float32)

    @property
    def scale(self) -> Float32[np.ndarray, " dim"]:
        """What a normalised unit is in dataset units: the std, and below 1e-6 with the epsilon of `normalize`.

        There Octo's inverse is none; the two differ by 1e-8 a normalised unit.
        """
        return np.where(self.std < np.float32(1e-6), self.std + np.float32(1e-8), self.std)

    def unnormalize_factor(
        self, scale_tril: Float[np.ndarray, "*lead dim dim"]
    ) -> Float32[np.ndarray, "*lead dim dim"]:
        """Factor of the covariance in dataset units: each row times its dimension's scale."""
        return (np.where(self.mask, self.scale, 1.0)[:, None] * scale_tril).astype(np.float32)


def normal_of(statistics: Mapping[str, object], key: str) -> Normal:
    """The normaliser of `action` or `proprio` from statistics in the form of dataset_statistics.json.

    Raises:
        UserError: the key, its mean or its std is missing, their lengths differ, or a number in them cannot be right
            (see `xp.foreign.statistics`).
    """
    entry = statistics.get(key)
    if not isinstance(entry, Mapping) or "mean" not in entry or "std" not in entry:
        raise UserError(
            f"The dataset statistics lack '{key}' with mean and std; they have "
            f"{join_names(statistics)}. Recompute them "
            "from the dataset (`xp task=train` does), or give a folder whose dataset_statistics.json is complete."
        )
    try:
        mean, std = (np.asarray(entry[name], dtype=np.float32) for name in ("mean", "std"))
        mask = np.asarray(entry.get("mask", np.ones(mean.shape, dtype=bool)), dtype=bool)
    except (TypeError, ValueError):  # no numbers, or rows of different lengths: the rule says which
        checked_statistics(entry, f"of '{key}'")
        raise
    if not (mean.shape == std.shape == mask.shape and mean.ndim == 1):
        raise UserError(
            f"The dataset statistics of '{key}' differ in length: mean {mean.shape}, std {std.shape}, mask "
            f"{mask.shape}. Each must have one number a dimension; recompute them from the dataset."
        )
    checked_statistics(entry, f"of '{key}'")
    return Normal(mean, std, mask)


def identity(size: int) -> Normal:
    """The normaliser that changes nothing."""
    return Normal(np.zeros(size, np.float32), np.ones(size, np.float32), np.zeros(size, dtype=bool))
