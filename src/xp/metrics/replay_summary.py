"""Everything `metrics.json` says about a replay: each measure of each row, over episodes, with an interval.

A row is the policy, holding the last known action (`hold_last`), or the demonstration itself. Episodes count the same,
however long they are; intervals resample episodes (see `xp.metrics.intervals`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xp.metrics import continuity, smoothness
from xp.metrics.actions import scale_of
from xp.metrics.intervals import Sums, bootstrap
from xp.metrics.replay import Trace
from xp.metrics.summary import plain

ROWS = ("policy", "hold_last", "demonstration")


@dataclass(frozen=True)
class Measure:
    """What a measure is called, its unit, and one sentence about it."""

    label: str
    unit: str
    about: str


MEASURES: dict[str, Measure] = {
    "l1": Measure("tracking error", "std", "mean |executed - demonstrated|"),
    "boundary_jump": Measure("boundary jump", "std", "mean |step - true step| where a chunk takes over"),
    "jump_excess": Measure("jump excess", "std", "mean (|step| - |true step|) where a chunk takes over"),
    "velocity_jump": Measure("velocity jump", "std", "mean |change of velocity - true change| across a boundary"),
    "u_a_ratio": Measure("U_a ratio", "1", "variance of the acceleration over the demonstration's, geometric mean"),
    "jerk": Measure("jerk", "std/s^3", "mean |third difference|"),
    "sparc": Measure("spectral arc length", "1", "of the speed; nearer to 0 is smoother"),
    "u_a": Measure("U_a", "unit^2/frame^4", "largest variance of a joint's acceleration"),
    "u_v": Measure("U_v", "unit^2/frame^2", "largest variance of a joint's velocity"),
    "mean_speed": Measure("mean speed", "unit/frame", "mean |velocity| over joints and frames"),
    "boundary_spike": Measure("boundary spike", "1", "mean |acceleration| near boundaries (2 frames) over elsewhere"),
}
"""`std` is a joint's standard deviation in the training episodes, `unit` the dataset's unit."""


@dataclass(frozen=True, kw_only=True)
class Scales:
    """What the measures are relative to: `std` [A] (see `actions.scale_of`) and the frames per second."""

    std: np.ndarray
    fps: float

    @classmethod
    def of(cls, statistics: Mapping[str, Any], fps: float) -> "Scales":
        """From the dataset statistics' `action` entry."""
        return cls(std=scale_of(statistics), fps=fps)


def episode_measures(trace: Trace, scales: Scales) -> dict[str, float]:
    """The measures of one trajectory by their names in `MEASURES`; NaN where one is not defined."""
    x, truth, boundaries, std = trace.x, trace.truth, trace.boundaries, scales.std
    return {
        "l1": float((continuity.tracking_error(x, truth) / std).mean()),
        "boundary_jump": continuity.boundary_jump(x, truth, boundaries, std),
        "jump_excess": continuity.jump_excess(x, truth, boundaries, std),
        "velocity_jump": continuity.velocity_jump(x, truth, boundaries, std),
        "u_a_ratio": continuity.u_a_ratio(x, truth, std),
        "jerk": smoothness.mean_jerk(x, std, scales.fps),
        "sparc": smoothness.spectral_arc_length(smoothness.speed(x, std, scales.fps), scales.fps),
        "u_a": continuity.u_a(x),
        "u_v": continuity.u_v(x),
        "mean_speed": continuity.mean_speed(x),
        "boundary_spike": continuity.boundary_spike(x, boundaries),
    }


def demonstration_of(trace: Trace) -> Trace:
    """The demonstration as if it had been executed, with the same boundaries."""
    return replace(trace, x=trace.truth, chunks=(), unheard=0)


def summarise(
    traces: Sequence[Trace], episodes: Sequence[int], scales: Scales, *, seed: int, resamples: int
) -> dict[str, Any]:
    """One row as plain JSON values: `measures` with intervals, `episodes` behind them, `per_joint` and `per_step`."""
    by_episode = [episode_measures(trace, scales) for trace in traces]
    columns = {name: np.array([measures[name] for measures in by_episode]) for name in MEASURES}

    def told(values: np.ndarray) -> dict[str, Any]:
        return estimate(values, np.asarray(episodes), seed=seed, resamples=resamples)

    ratios = [continuity.acceleration_ratios(trace.x, trace.truth, scales.std) for trace in traces]
    row = {
        "measures": {name: told(values) for name, values in columns.items()},
        "episodes": {"index": np.asarray(episodes), **columns},
        "per_joint": {
            "l1": told(np.array([continuity.tracking_error(trace.x, trace.truth) for trace in traces])),
            "u_a_ratio": told(np.array(ratios)),
        },
        "per_step": {"l1": told(np.array([_step_errors(trace, scales.std) for trace in traces]))},
        "boundaries": int(sum(len(trace.boundaries) for trace in traces)),
        "unheard": int(sum(trace.unheard for trace in traces)),
    }
    return plain(row)


def estimate(values: np.ndarray, episodes: np.ndarray, *, seed: int, resamples: int) -> dict[str, Any]:
    """Mean of `values` [E, ...] over episodes with its interval: `{value, low, high, n}`; NaN is left out."""
    known = np.isfinite(values)
    some = known.reshape(len(values), -1).any(axis=1)
    sums = Sums(
        episodes=episodes[some],
        sums=np.where(known, values, 0.0)[some],
        counts=known.astype(np.float64)[some],
        windows=int(some.sum()),
    )
    ends = bootstrap(sums, seed=seed, resamples=resamples)
    return {"value": sums.mean(), "low": ends["low"], "high": ends["high"], "n": int(some.sum())}


def spread(checkpoints: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, Any]]:
    """How far neighbouring checkpoints lie apart, `{mode: {measure: {low, high, sd, n}}}`, from each one's values.

    The standard deviation is None with one checkpoint. A difference between two trainings that is smaller than this is
    no finding.
    """
    result: dict[str, dict[str, Any]] = {}
    for mode, measures in checkpoints[0].items():
        for name in measures:
            values = [value for each in checkpoints if (value := each[mode][name]) is not None]
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
            ends = {"low": min(values, default=None), "high": max(values, default=None)}
            result.setdefault(mode, {})[name] = {**ends, "sd": sd, "n": len(values)}
    return result


def _step_errors(trace: Trace, std: np.ndarray) -> np.ndarray:
    """Mean |chunk - demonstration| / std at each step of the chunks [C], executed or not; NaN without chunks."""
    if not trace.chunks:
        return np.full(1, np.nan)
    errors = [np.abs(chunk.actions - trace.episode[chunk.start : chunk.end]) / std for chunk in trace.chunks]
    return np.mean(errors, axis=(0, 2))
