# pyright: strict
"""Everything `metrics.json` says about a replay: each measure of each row, over episodes, with an interval.

A row is the policy, holding the last known action (`hold_last`), or the demonstration itself. Episodes count the same,
however long they are; intervals resample episodes (see `xp.metrics.intervals`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Int

from xp.array_types import Floats, Ints
from xp.metrics import continuity, smoothness
from xp.metrics.actions import FeatureStatistics, scale_of
from xp.metrics.intervals import End, Sums, Value, interval
from xp.metrics.replay import Trace

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


class Mean(TypedDict):
    """A mean over n episodes with its interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Means(TypedDict):
    """Means over n episodes, one for each joint or each step of a chunk."""

    value: list[float | None]
    low: list[float | None] | None
    high: list[float | None] | None
    n: int


class ReplaySummary(TypedDict):
    """One row of a replay: what `summarise` gives."""

    measures: dict[str, Mean]
    episodes: dict[str, list[float | None]]
    """`index` and each measure, by episode."""
    per_joint: dict[str, Means]
    per_step: dict[str, Means]
    boundaries: int
    unheard: int
    """Answers that arrived after their own end."""


class Spread(TypedDict):
    """How far the values of neighbouring checkpoints lie apart."""

    low: float | None
    high: float | None
    sd: float | None
    n: int


class ReplayMetrics(TypedDict):
    """The metrics.json of an offline replay."""

    checkpoint: str
    dataset_fingerprint: str
    fps: float
    episodes: list[int]
    held_out: str
    joints: list[str]
    horizon: int
    prefix_past: int
    prefix_future: int
    chunk_steps: int
    execution: str
    delay: int
    jitter: int
    measures: dict[str, dict[str, str]]
    """Label, unit and one sentence about each measure."""
    image_sensitivity: Mapping[str, float | bool]
    policy: str
    """The checkpoint that `replay` is about."""
    replay: dict[str, dict[str, ReplaySummary]]
    """By mode and row."""
    checkpoints: dict[str, dict[str, dict[str, float | None]]]
    """Each checkpoint's values by mode and measure."""
    spread: dict[str, dict[str, Spread]]


@dataclass(frozen=True, kw_only=True)
class Scales:
    """What the measures are relative to: `std` [A] (see `actions.scale_of`) and the frames per second."""

    std: Float[Floats, " action"]
    fps: float

    @classmethod
    def of(cls, statistics: FeatureStatistics, fps: float) -> "Scales":
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
    return replace(trace, x=trace.truth, chunks=(), discarded=0)


def summarise(
    traces: Sequence[Trace], episodes: Sequence[int], scales: Scales, *, seed: int, resamples: int
) -> ReplaySummary:
    """One row as plain JSON values: `measures` with intervals, `episodes` behind them, `per_joint` and `per_step`."""
    by_episode = [episode_measures(trace, scales) for trace in traces]
    columns = {name: np.array([measures[name] for measures in by_episode]) for name in MEASURES}
    index = np.asarray(episodes, dtype=np.int64)

    def means(values: list[Float[Floats, " place"]]) -> Means:
        return estimates(np.array(values), index, seed=seed, resamples=resamples)

    return {
        "measures": {name: estimate(column, index, seed=seed, resamples=resamples) for name, column in columns.items()},
        "episodes": {"index": index.tolist(), **{name: _all_finite(column) for name, column in columns.items()}},
        "per_joint": {
            "l1": means([continuity.tracking_error(trace.x, trace.truth) for trace in traces]),
            "u_a_ratio": means([continuity.acceleration_ratios(t.x, t.truth, scales.std) for t in traces]),
        },
        "per_step": {"l1": means([_step_errors(trace, scales.std) for trace in traces])},
        "boundaries": sum(len(trace.boundaries) for trace in traces),
        "unheard": sum(trace.discarded for trace in traces),
    }


def estimate(
    values: Float[Floats, " episodes"], episodes: Int[Ints, " episodes"], *, seed: int, resamples: int
) -> Mean:
    """Mean of `values` [E] over episodes with its interval; NaN is left out."""
    sums = _known(values, episodes)
    low, high = interval(sums, seed=seed, resamples=resamples)
    return {"value": _finite(sums.mean()), "low": _finite(low), "high": _finite(high), "n": len(sums.episodes)}


def estimates(
    values: Float[Floats, "episodes place"], episodes: Int[Ints, " episodes"], *, seed: int, resamples: int
) -> Means:
    """Means of `values` over episodes at each place (joint or step) with their intervals; NaN is left out."""
    sums = _known(values, episodes)
    low, high = interval(sums, seed=seed, resamples=resamples)
    return {
        "value": _all_finite(sums.mean()),
        "low": None if low is None else _all_finite(low),
        "high": None if high is None else _all_finite(high),
        "n": len(sums.episodes),
    }


def _known(values: Float[Floats, " episodes *places"], episodes: Int[Ints, " episodes"]) -> Sums:
    """The finite values and how many there are, without episodes that have none."""
    known = np.isfinite(values)
    some = known.reshape(len(values), -1).any(axis=1)
    return Sums(
        episodes=episodes[some],
        sums=np.where(known, values, 0.0)[some],
        counts=known.astype(np.float64)[some],
        windows=int(some.sum()),
    )


def _finite(value: Value | End) -> float | None:
    """A number as JSON holds it: None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def _all_finite(values: Value | End) -> list[float | None]:
    return [_finite(value) for value in np.asarray(values, dtype=np.float64).tolist()]


def spread(checkpoints: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, Spread]]:
    """How far neighbouring checkpoints lie apart, `{mode: {measure: {low, high, sd, n}}}`, from each one's values.

    The standard deviation is None with one checkpoint. A difference between two trainings that is smaller than this is
    no finding.
    """
    result: dict[str, dict[str, Spread]] = {}
    for mode, measures in checkpoints[0].items():
        for name in measures:
            values = [value for each in checkpoints if (value := each[mode][name]) is not None]
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
            low, high = min(values, default=None), max(values, default=None)
            result.setdefault(mode, {})[name] = {"low": low, "high": high, "sd": sd, "n": len(values)}
    return result


def _step_errors(trace: Trace, std: Float[Floats, " action"]) -> Float[Floats, " steps"]:
    """Mean |chunk - demonstration| / std at each step of the chunks [C], executed or not; NaN without chunks."""
    if not trace.chunks:
        return np.full(1, np.nan)
    errors = [np.abs(chunk.actions - trace.episode[chunk.start : chunk.end]) / std for chunk in trace.chunks]
    return np.mean(errors, axis=(0, 2))
