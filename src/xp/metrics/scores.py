# pyright: strict
"""Step errors summed per episode, and what is reported from the sums: means, intervals, curves, comparisons."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from xp.array_types import Bools, Floats, Ints
from xp.json_types import JSONObject
from xp.metrics import actions
from xp.metrics.intervals import (
    RESAMPLES,
    End,
    Interval,
    PairedDifference,
    Sums,
    Value,
    bootstrap,
    paired_difference,
    sum_by_episode,
)

KINDS: dict[str, actions.Kind] = {"mse": "squared", "mae": "absolute"}
Chunks = Float[Floats, "windows horizon action"]


class Curve(TypedDict):
    """A mean at each step of the horizon [H], its interval, and how many true steps stand behind it."""

    value: Value
    low: End
    high: End
    num_steps: Int[Ints, " horizon"]


class Comparison(TypedDict):
    """How an error compares with a rival's on the same episodes; None where there is no interval."""

    intervals_apart: bool | None
    difference: PairedDifference
    paired_better: bool | None


class EpisodeErrors(TypedDict):
    """Mean error of each episode [E] and the steps behind it."""

    index: Shaped[Ints, " episodes"]
    num_steps: Int[Ints, " episodes"]
    mse: Float[Floats, " episodes"]
    mae: Float[Floats, " episodes"]


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are drawn; one seed for all, so that differences are paired."""

    seed: int = 0
    resamples: int = RESAMPLES

    def bootstrap(self, data: Sums) -> Interval:
        """The interval of a mean error (see `intervals.bootstrap`)."""
        return bootstrap(data, seed=self.seed, resamples=self.resamples)

    def difference(self, first: Sums, second: Sums) -> PairedDifference:
        """The paired difference of two mean errors (see `intervals.paired_difference`)."""
        return paired_difference(first, second, seed=self.seed, resamples=self.resamples)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Mean-over-dimensions step errors, summed per episode with the step axis kept [E, H], per metric (mse, mae)."""

    normalised: Mapping[str, Sums]
    dataset: Mapping[str, Sums]

    def pooled(self, metric: str) -> Sums:
        """The normalised errors with the step axis summed away [E]."""
        return pooled(self.normalised[metric])


def pooled(curve: Sums) -> Sums:
    """Sum the step axis away: [E, H] to [E]."""
    return Sums(
        episodes=curve.episodes, sums=curve.sums.sum(axis=1), counts=curve.counts.sum(axis=1), windows=curve.windows
    )


def scorer(
    truth: Chunks,
    valid: Bool[Bools, "windows horizon"],
    episode_index: Int[Ints, " windows"],
    statistics: actions.FeatureStatistics,
) -> Callable[[Chunks], Scores]:
    """A function from predictions [N, H, A] in dataset units to `Scores` against `truth` [N, H, A].

    `valid` [N, H]; `episode_index` [N]; `statistics` is the `action` entry of the dataset statistics.
    """
    units = {"dataset": np.float64(1.0), "normalised": actions.scale_of(statistics)}

    def score(predictions: Chunks) -> Scores:
        sums: dict[str, dict[str, Sums]] = {}
        for unit, scale in units.items():
            sums[unit] = {}
            for metric, kind in KINDS.items():
                error = actions.errors(predictions / scale, truth / scale, valid, kind).mean(axis=-1)
                sums[unit][metric] = sum_by_episode(error, valid, episode_index, per_step=True)
        return Scores(**sums)

    return score


def error_summary(scores: Scores, resampling: Resampling) -> dict[str, object]:
    """Mse and mae with intervals in normalised units, then per step, and the same in dataset units."""
    return {
        **_means(scores.normalised, resampling),
        "dataset_units": _means(scores.dataset, resampling),
        "per_step": {
            "normalised": {metric: curve(data, resampling) for metric, data in scores.normalised.items()},
            "dataset_units": {metric: curve(data, resampling) for metric, data in scores.dataset.items()},
        },
    }


def curve(data: Sums, resampling: Resampling) -> Curve:
    """The mean at each step [H], the ends of its interval, and how many true steps stand behind it."""
    ends = resampling.bootstrap(data)
    steps = data.counts.sum(axis=0).astype(int)
    return {"value": data.mean(), "low": ends["low"], "high": ends["high"], "num_steps": steps}


def compare(own: Scores, rival: Scores, resampling: Resampling) -> dict[str, Comparison]:
    """Per metric: whether the intervals are apart with `own` below, and the paired difference own minus rival."""
    result: dict[str, Comparison] = {}
    for metric in KINDS:
        mine, theirs = own.pooled(metric), rival.pooled(metric)
        high, low = resampling.bootstrap(mine)["high"], resampling.bootstrap(theirs)["low"]
        difference = resampling.difference(mine, theirs)
        result[metric] = {
            "intervals_apart": None if high is None or low is None else bool(high < low),
            "difference": difference,
            "paired_better": None if difference["high"] is None else bool(difference["high"] < 0),
        }
    return result


def by_episode(own: Scores) -> EpisodeErrors:
    """Mean error of each held-out episode (normalised); with the step counts, two runs can be compared in pairs."""
    squared, absolute = own.pooled("mse"), own.pooled("mae")
    return {
        "index": squared.episodes,
        "num_steps": squared.counts.astype(int),
        "mse": squared.sums / np.maximum(squared.counts, 1),
        "mae": absolute.sums / np.maximum(absolute.counts, 1),
    }


def sums_from_episodes(episodes: JSONObject, metric: str) -> Sums:
    """The sums behind `by_episode`'s entry of a metrics.json, for comparing runs."""
    counts = np.asarray(episodes["num_steps"], dtype=np.float64)
    means = np.asarray(episodes[metric], dtype=np.float64)
    return Sums(episodes=np.asarray(episodes["index"]), sums=means * counts, counts=counts, windows=0)


def _means(by_metric: Mapping[str, Sums], resampling: Resampling) -> dict[str, object]:
    means = {metric: float(pooled(data).mean()) for metric, data in by_metric.items()}
    return {**means, **{f"{metric}_interval": resampling.bootstrap(pooled(data)) for metric, data in by_metric.items()}}
