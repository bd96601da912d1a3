"""Statistics of actions and states from outside: one rule wherever they come from.

They stand in a file that is given (data.statistics), in a checkpoint's dataset_statistics.json, in a dataset's
own files. Whatever is normalised by them is only as right as they are.
"""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from xp.foreign.paths import RefusedError
from xp.foreign.text import printable, shown

_ASCENDING = (("min", "max"), ("p01", "p99"), ("q01", "q10", "q50", "q90", "q99"))
_NUMBERS = ("mean", "std", *(name for names in _ASCENDING for name in names))
_AGAIN = "Compute them again from the dataset (`xp task=train` and `xp task=split` do), or give another file."
_SLACK = 1e-4
"""Of the range: means and quantiles that were written rounded."""

FeatureStatistics = Mapping[str, NDArray[Any]]
"""Statistics of one feature by name, each [D]: `mean`, `std`, `mask` and more."""


class GroupStatistics(TypedDict):
    """Statistics of the episodes of one group (see `xp.data.dataset.Groups`), as wide as its own robot's numbers."""

    action: FeatureStatistics
    proprio: FeatureStatistics
    num_transitions: int
    num_trajectories: int


class DatasetStatistics(TypedDict):
    """The contents of a dataset_statistics.json."""

    action: FeatureStatistics
    proprio: FeatureStatistics
    environment_state: NotRequired[FeatureStatistics]
    num_transitions: NotRequired[int]
    num_trajectories: NotRequired[int]
    groups: NotRequired[dict[str, GroupStatistics]]
    members: NotRequired[dict[str, GroupStatistics]]
    """Of each dataset of a mixture, by its name; the others are then of values that these have normalised."""


def checked_statistics(
    entry: object, where: str, *, positive: bool = False, most: int = 1 << 16
) -> dict[str, np.ndarray]:
    """The statistics of one feature as arrays: float32, `mask` bool, `count` int64; other fields are left out.

    Args:
        entry: as JSON gives it: lists of numbers by name; `mean` and `std` at least.
        where: what it is, for the message: "PATH: action".
        positive: refuse a std of 0 where a dimension is normalised (`mask`, by default all), by which nothing can be
            divided. Published checkpoints have such entries for states that they do not use.
        most: the most numbers in an array.

    Raises:
        RefusedError: no object, a missing entry, other shapes than that of `mean`, a number that is not finite in
            float32, a negative std, quantiles or bounds in the wrong order, a mean outside of its bounds, a mask that
            is no list of true and false, or a count below 1.
    """
    if not isinstance(entry, Mapping):
        raise _refusal(where, f"is {shown(entry)}", "an object with mean and std")
    missing = [name for name in ("mean", "std") if entry.get(name) is None]
    if missing:
        raise _refusal(where, f"has no {missing[0]}", f"mean and std (it has: {printable(', '.join(map(str, entry)))})")
    found = {name: _numbers(entry[name], where, name, most) for name in _NUMBERS if entry.get(name) is not None}
    shape = found["mean"].shape
    if entry.get("mask") is not None:
        found["mask"] = _mask(entry["mask"], where, shape)
    for name, values in found.items():
        if values.shape != shape:
            raise _refusal(where, f"has {name} of shape {values.shape}", f"the shape of mean, {shape}")
    _check_order(found, where)
    _check_std(found, where, positive)
    if entry.get("count") is not None:
        found["count"] = _count(entry["count"], where)
    return found


def _numbers(value: object, where: str, name: str, most: int) -> np.ndarray:
    try:
        wide = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise _refusal(where, f"has {name} = {shown(value)}", "numbers of one shape") from error
    if wide.dtype.kind not in "iuf" or wide.size > most:
        raise _refusal(where, f"has {name} = {shown(value)}", f"at most {most:,} numbers")
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise _refusal(
            where,
            f"has {name} = {wide.reshape(-1)[bad[0]]} in dimension {bad[0]}",
            "numbers that are finite in float32",
        )
    return values


def _mask(value: object, where: str, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.asarray(value) if isinstance(value, list | tuple | np.ndarray) else np.asarray(None)
    if mask.dtype != np.bool_ and not (mask.size == 0 and shape == (0,)):
        raise _refusal(where, f"has mask = {shown(value)}", f"{shape} times true or false")
    return mask.astype(bool)


def _check_order(found: Mapping[str, np.ndarray], where: str) -> None:
    for names in _ASCENDING:
        present = [name for name in names if name in found]
        for low, high in zip(present, present[1:], strict=False):
            _refuse_where(found[low] > found[high], where, f"{low} above {high}", f"{low} at most {high}")
    if "min" in found and "max" in found:
        wide = {name: found[name].astype(np.float64) for name in ("min", "max", "mean")}
        slack = _SLACK * (wide["max"] - wide["min"]) + 1e-6 * np.maximum(np.abs(wide["max"]), np.abs(wide["min"]))
        outside = (wide["mean"] < wide["min"] - slack) | (wide["mean"] > wide["max"] + slack)
        _refuse_where(outside, where, "a mean outside of min and max", "a mean between them")


def _check_std(found: Mapping[str, np.ndarray], where: str, positive: bool) -> None:
    _refuse_where(found["std"] < 0, where, "a negative std", "standard deviations of 0 and more")
    if positive:
        used = found.get("mask", np.ones(found["std"].shape, bool))
        # Below the smallest normal number division and multiplication lose digits.
        small = used & (found["std"] < np.finfo(np.float32).tiny)
        _refuse_where(
            small, where, "a std of 0", 'a std above 0, or "mask" with false for a dimension that never changes'
        )


def _refuse_where(wrong: np.ndarray, where: str, what: str, expected: str) -> None:
    places = np.flatnonzero(wrong)
    if len(places):
        raise _refusal(where, f"has {what} in dimension {places[0]}", expected)


def _count(value: object, where: str) -> np.ndarray:
    count = np.asarray(value)
    if count.dtype.kind not in "iu" or count.size != 1 or count.reshape(-1)[0] < 1:
        raise _refusal(where, f"has count = {shown(value)}", "one whole number above 0")
    return count.reshape(1).astype(np.int64)


def _refusal(where: str, what: str, expected: str) -> RefusedError:
    return RefusedError(f"The statistics {where} cannot be used: it {what}; expected {expected}. {_AGAIN}")
