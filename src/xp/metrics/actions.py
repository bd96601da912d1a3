# pyright: strict
"""Errors between predicted and true action chunks, with padded steps left out.

Every function takes `predictions` and `truth` of shape [..., H, A] in one unit (dataset units, or normalised: see
`normalise`) and `valid` of shape [..., H], True where the true step exists. Arithmetic is float64. What stands in a
step that is not valid, NaN included, never changes a result.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from xp.array_types import Bools, Floats

Kind = Literal["squared", "absolute"]
FeatureStatistics = Mapping[str, Floats | Bools | Sequence[float | int]]
"""Statistics of the action: `mean` and `std` [A], and `mask` [A] where some dimensions are not normalised."""
Actions = Float[Floats, "*batch horizon action"]
Valid = Bool[Bools, "*batch horizon"]


def scale_of(statistics: FeatureStatistics) -> Float[Floats, " action"]:
    """Size of one normalised unit per action dimension [A]: the training standard deviation.

    Octo's rule (Octo Model Team 2024, `NormalizationType.NORMAL`): (x - mean) / (std + 1e-8) where the statistics'
    `mask` is True, untouched elsewhere. A dimension that was constant in training (std 0) is left in dataset units too:
    dividing by 1e-8 would let it drown all others.
    """
    std = np.asarray(statistics["std"], dtype=np.float64)
    mask = np.asarray(statistics.get("mask", np.ones(std.shape)), dtype=bool)
    return np.where(mask & (std > 1e-8), std + 1e-8, 1.0)


def normalise(actions: Float[Floats, "*batch action"], statistics: FeatureStatistics) -> Float[Floats, "*batch action"]:
    """Actions [..., A] from dataset units to the units models train in (see `scale_of`), float64."""
    std = np.asarray(statistics["std"], dtype=np.float64)
    mask = np.asarray(statistics.get("mask", np.ones(std.shape)), dtype=bool)
    mean = np.where(mask, np.asarray(statistics["mean"], dtype=np.float64), 0.0)
    return (np.asarray(actions, dtype=np.float64) - mean) / scale_of(statistics)


def errors(predictions: Actions, truth: Actions, valid: Valid | None = None, kind: Kind = "absolute") -> Actions:
    """Squared or absolute error of each element [..., H, A], exactly 0 where `valid` is False."""
    predictions, truth = np.asarray(predictions, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    assert predictions.shape == truth.shape, f"predictions {predictions.shape} and truth {truth.shape} differ"
    difference = predictions - truth
    if valid is not None:
        assert np.shape(valid) == truth.shape[:-1], f"valid {np.shape(valid)} does not fit truth {truth.shape}"
        difference = np.where(np.asarray(valid, dtype=bool)[..., None], difference, 0.0)
    return difference**2 if kind == "squared" else np.abs(difference)


def mean_error(predictions: Actions, truth: Actions, valid: Valid | None = None, kind: Kind = "absolute") -> float:
    """Mean over all valid steps and all dimensions; NaN when no step is valid."""
    error = errors(predictions, truth, valid, kind)
    count = error.size if valid is None else int(np.sum(valid)) * error.shape[-1]
    return float(error.sum() / count) if count else float("nan")


def mse(predictions: Actions, truth: Actions, valid: Valid | None = None) -> float:
    """Mean squared error over valid steps and dimensions (units squared)."""
    return mean_error(predictions, truth, valid, "squared")


def mae(predictions: Actions, truth: Actions, valid: Valid | None = None) -> float:
    """Mean absolute error over valid steps and dimensions; the L1 error of validation logs."""
    return mean_error(predictions, truth, valid, "absolute")


l1 = mae


def per_step(
    predictions: Actions, truth: Actions, valid: Valid | None = None, kind: Kind = "absolute"
) -> Float[Floats, " horizon"]:
    """Error curve [H]: the mean over windows and dimensions at each step of the horizon; NaN where none is valid."""
    error = errors(predictions, truth, valid, kind)
    horizon = error.shape[-2]
    sums = error.mean(axis=-1).reshape(-1, horizon).sum(axis=0)
    ones = np.ones(error.shape[:-1]) if valid is None else np.asarray(valid, dtype=np.float64)
    return _ratio(sums, ones.reshape(-1, horizon).sum(axis=0))


def per_dimension(
    predictions: Actions, truth: Actions, valid: Valid | None = None, kind: Kind = "absolute"
) -> Float[Floats, " action"]:
    """Error per action dimension [A]: the mean over all valid steps; NaN when no step is valid."""
    error = errors(predictions, truth, valid, kind)
    steps = error[..., 0].size if valid is None else np.sum(valid)
    return _ratio(error.reshape(-1, error.shape[-1]).sum(axis=0), np.full(error.shape[-1], steps, dtype=np.float64))


def direction_accuracy(
    predictions: Actions,
    truth: Actions,
    valid: Valid | None = None,
    *,
    threshold: float = 0.02,
    reference: Float[Floats, "..."] | float = 0.0,
) -> float:
    """Share of true movements larger than `threshold` whose predicted sign agrees; NaN when nothing moves that far.

    For relative actions `reference` is 0. Absolute actions (joint targets) have no sign of movement of their own: give
    the positions at the start of the window, broadcastable to [..., H, A], and the movement away from them is compared.
    A prediction of exactly no movement is wrong.
    """
    moved = np.asarray(truth, dtype=np.float64) - reference
    guessed = np.asarray(predictions, dtype=np.float64) - reference
    counted = np.abs(moved) > threshold
    if valid is not None:
        counted &= np.asarray(valid, dtype=bool)[..., None]
    return _share(np.sign(moved) == np.sign(guessed), counted)


def gripper_accuracy(
    predictions: Actions,
    truth: Actions,
    valid: Valid | None = None,
    *,
    dim: int = -1,
    threshold: float = 0.5,
) -> float:
    """Share of valid steps whose gripper dimension lies on the true side of `threshold`; NaN when no step is valid."""
    agree = (np.asarray(predictions)[..., dim] > threshold) == (np.asarray(truth)[..., dim] > threshold)
    counted = np.ones(agree.shape, dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    return _share(agree, counted)


def _share(agree: Bool[Bools, "*axes"], counted: Bool[Bools, "*axes"]) -> float:
    total = int(np.sum(counted))
    return float(np.sum(agree & counted) / total) if total else float("nan")


def _ratio(sums: Float[Floats, " n"], counts: Float[Floats, " n"]) -> Float[Floats, " n"]:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
