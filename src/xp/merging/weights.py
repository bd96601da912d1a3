"""Mixing weights as the user gives them, checked: one a checkpoint, for the whole model or for each part of it."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import SupportsFloat

import numpy as np

from xp.errors import UserError, join_names
from xp.merging.groups import Units
from xp.merging.method import example
from xp.merging.shapes import Shares, Table

SMALLEST_SUM = 0.01
"""Weights are divided by their sum only where it is at least this share of their magnitudes: at less, what differs
between the checkpoints is multiplied by more than a hundred."""
SMALLEST_TOTAL = 1e-6
"""Weights of magnitudes that sum to less leave nothing of a model."""


def weight_table(
    weights: object,
    units: Units,
    count: int,
    *,
    normalize: bool,
    divided: bool = False,
    default: float | None = None,
    parts_may_be_zero: bool = False,
) -> Table:
    """The mixing weights of each unit from the user's: a list of N, or {pattern of a group or unit: list of N}.

    Args:
        weights: what was given; None: `default` each.
        units: the parts that have weights of their own.
        count: N.
        normalize: divide each row by its sum.
        divided: the rule divides by sums of these weights later on, so that they must not cancel out.
        default: None: 1 / N.
        parts_may_be_zero: a part (not all of them) may have weights of 0 only: nothing is added to its base.

    Raises:
        UserError: a wrong count, a value that is no finite number, weights that cancel out or are all 0, or a unit
            without weights.
    """
    if weights is None:
        return np.full((units.count, count), 1.0 / count if default is None else default)
    row = partial(_row, count=count, normalize=normalize, divided=divided)
    if not isinstance(weights, Mapping):
        return np.tile(row("merge.weights", weights), (units.count, 1))
    keys = [_key_of(unit, weights, units, count) for unit in units.names]
    table = np.stack([row(f"merge.weights.{key}", weights[key], may_be_zero=parts_may_be_zero) for key in keys])
    if not table.any():
        raise _all_zero("merge.weights", dict(weights), count)
    return table


def _key_of(unit: str, weights: Mapping[str, object], units: Units, count: int) -> str:
    """The first pattern that matches a unit or its group."""
    for key in weights:
        if fnmatchcase(unit, key) or fnmatchcase(unit.partition(".")[0], key):
            return key
    raise UserError(
        f"merge.weights says nothing about '{unit}'. Groups here: {join_names(units.names)}. "
        f"Add its weights, or those of the rest: merge.weights={{...,*:{example(count)}}}"
    )


def _row(key: str, given: object, *, count: int, normalize: bool, divided: bool, may_be_zero: bool = False) -> Shares:
    values: list[object] = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if len(values) != count:
        raise UserError(
            f"{key}={values}: {len(values)} weights for {count} checkpoints. Give one each: {example(count)}"
        )
    try:
        row = np.array([_number(value) for value in values])
    except (TypeError, ValueError):
        raise UserError(f"{key}={values}: weights are numbers, for instance {example(count)}") from None
    with np.errstate(over="ignore"):
        total, magnitudes = row.sum(), np.abs(row).sum()
    if not np.isfinite(row).all() or not np.isfinite(magnitudes):
        raise UserError(f"{key}={values}: weights must be finite numbers, for instance {example(count)}")
    if not row.any() and may_be_zero:
        return row
    if magnitudes < SMALLEST_TOTAL and not (normalize and magnitudes > 0):
        raise _all_zero(key, values, count)
    if (normalize or divided) and abs(total) < SMALLEST_SUM * magnitudes:
        raise UserError(
            f"{key}={values} sum to {total:g}, and dividing by that would multiply what differs between the "
            f"checkpoints by {magnitudes / abs(total) if total else float('inf'):.3g}. Give weights whose sum is not "
            f"near 0, or take them as they are: "
            + ("merge_method.normalize=false" if divided else "merge_method=linear")
        )
    return row / total if normalize else row


def _number(value: object) -> float:
    if not isinstance(value, str | SupportsFloat):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def not_negative(table: Table, method: str) -> Table:
    """The weights of a method that has no meaning for negative ones.

    Raises:
        UserError: one is negative.
    """
    if (table < 0).any():
        raise UserError(
            f"merge.weights: merge_method={method} averages directions and takes no negative weights. Give weights of "
            f"at least 0, for instance {example(table.shape[1])}, or extrapolate with merge_method=linear"
        )
    return table


def _all_zero(key: str, values: object, count: int) -> UserError:
    return UserError(
        f"{key}={values}: with weights that are all 0 (or nearly) nothing of the checkpoints is left. Give weights, "
        f"for instance {example(count)}"
    )
