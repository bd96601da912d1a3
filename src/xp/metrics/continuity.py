# pyright: strict
"""How continuous an executed trajectory is where one chunk follows another.

A trajectory is x [F, A], one executed action a frame, in dataset units; `truth` [F, A] is what was demonstrated at the
same frames. Velocity is v_f = x_f - x_{f-1} and acceleration v_f - v_{f-1}, in dataset units per frame (squared).
`boundaries` are the frames (row numbers of x) at which a new chunk took over.

The first four functions are those of the offline replay of ACT-smooth (`eval_offline_replay.py`), bit for bit: they
take the worst joint in dataset units. Alone they mislead: a trajectory smoother than the demonstration, and far from
it, scores best. The others compare with the demonstration, joint by joint in units of `scale` [A] (the training
standard deviation, see `xp.metrics.actions.scale_of`), and are 0 (or 1, for a ratio) where the demonstration itself is
executed.
"""

import numpy as np
from jaxtyping import Float, Int

from xp.array_types import Floats, Ints

Trajectory = Float[Floats, "frames action"]
Steps = Float[Floats, "steps action"]
"""Differences of a trajectory: `steps` is one or two less than its frames."""
Boundaries = Int[Ints, " boundaries"]
PerJoint = Float[Floats, " action"]

REACH = 2
"""Frames on each side of a boundary that belong to its spike."""


def velocity(x: Trajectory) -> Steps:
    """Steps [F-1, A]; row k belongs to frame k+1."""
    return np.diff(np.asarray(x, dtype=np.float64), axis=0)


def acceleration(x: Trajectory) -> Steps:
    """Differences of steps [F-2, A]; row k belongs to frame k+2."""
    return np.diff(velocity(x), axis=0)


def variances(x: Trajectory, order: int) -> PerJoint:
    """Sample variance (n - 1) of each joint's `order`-th difference [A]: 1 velocity, 2 acceleration; NaN if too short.

    As `pandas.Series.diff().var()` sums: the frames before the first difference stand as zeros that are not counted.
    """
    steps = np.diff(np.asarray(x, dtype=np.float64), n=order, axis=0)
    if len(steps) < 2:
        return np.full(steps.shape[1], np.nan)
    columns = np.zeros((steps.shape[1], len(x)))
    columns[:, order:] = steps.T
    deviations = np.array([column.sum() for column in columns])[:, None] / len(steps) - columns
    deviations[:, :order] = 0.0
    return np.array([row.sum() for row in deviations**2]) / (len(steps) - 1)


def u_v(x: Trajectory) -> float:
    """U_v = max over joints of the variance of the velocity."""
    return float(np.max(variances(x, 1)))


def u_a(x: Trajectory) -> float:
    """U_a = max over joints of the variance of the acceleration."""
    return float(np.max(variances(x, 2)))


def mean_speed(x: Trajectory) -> float:
    """mu_v = mean of |velocity| over frames and joints; NaN with one frame."""
    return _mean(np.abs(velocity(x)))


def boundary_spike(x: Trajectory, boundaries: Boundaries) -> float:
    """Mean |acceleration| within `REACH` frames of a boundary over that elsewhere, all joints pooled; NaN without."""
    size = np.abs(acceleration(x))
    frames = np.arange(2, len(x))
    distance = np.abs(frames[:, None] - np.asarray(boundaries, dtype=np.int64).reshape(1, -1))
    near = (distance <= REACH).any(axis=1)
    elsewhere = _mean(size[~near])
    return _mean(size[near]) / elsewhere if elsewhere > 0 else float("nan")


def boundary_jump(x: Trajectory, truth: Trajectory, boundaries: Boundaries, scale: PerJoint) -> float:
    """Mean |(x_b - x_{b-1}) - (truth_b - truth_{b-1})| / scale over boundaries b and joints: step less true step.

    Not |x_b - x_{b-1}|, which asks the robot to stand still at every boundary.
    """
    return _mean(np.abs(_at(velocity(x), boundaries, 1) - _at(velocity(truth), boundaries, 1)) / scale)


def jump_excess(x: Trajectory, truth: Trajectory, boundaries: Boundaries, scale: PerJoint) -> float:
    """Mean (|x_b - x_{b-1}| - |truth_b - truth_{b-1}|) / scale; negative where less moves than in the demonstration."""
    return _mean((np.abs(_at(velocity(x), boundaries, 1)) - np.abs(_at(velocity(truth), boundaries, 1))) / scale)


def velocity_jump(x: Trajectory, truth: Trajectory, boundaries: Boundaries, scale: PerJoint) -> float:
    """Mean |change of velocity across a boundary - the true change| / scale.

    The change is (x_{b+1} - x_b) - (x_{b-1} - x_{b-2}): the new chunk's first own step against the old chunk's last.
    """
    kept = np.asarray(boundaries, dtype=np.int64)
    kept = kept[(kept >= 2) & (kept + 1 < len(x))]
    return _mean(np.abs(_change(x, kept) - _change(truth, kept)) / scale)


def acceleration_ratios(x: Trajectory, truth: Trajectory, scale: PerJoint) -> PerJoint:
    """U_a joint by joint over the demonstration's [A]: 1 as lively as it, below 1 smoother, above 1 rougher.

    NaN for a joint that the demonstration does not move.
    """
    own, true = variances(x, 2), variances(truth, 2)
    moves = true > (1e-6 * np.asarray(scale, dtype=np.float64)) ** 2
    return np.where(moves, own / np.where(moves, true, 1.0), np.nan)


def u_a_ratio(x: Trajectory, truth: Trajectory, scale: PerJoint) -> float:
    """Geometric mean of `acceleration_ratios` over the joints that move; NaN where none does."""
    ratios = acceleration_ratios(x, truth, scale)
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        return float("nan")
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(ratios))))


def tracking_error(x: Trajectory, truth: Trajectory) -> PerJoint:
    """Mean |x - truth| of each joint [A], dataset units."""
    return np.abs(np.asarray(x, dtype=np.float64) - truth).mean(axis=0)


def _change(x: Trajectory, boundaries: Boundaries) -> Float[Floats, "boundaries action"]:
    steps = velocity(x)
    return steps[boundaries] - steps[boundaries - 2]


def _at(steps: Steps, boundaries: Boundaries, offset: int) -> Float[Floats, "kept action"]:
    kept = np.asarray(boundaries, dtype=np.int64) - offset
    return steps[kept[(kept >= 0) & (kept < len(steps))]]


def _mean(values: Float[Floats, "..."]) -> float:
    return float(np.mean(values)) if np.size(values) else float("nan")
