"""Step errors summed per episode, and what is reported from the sums: means, intervals, curves, comparisons."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xp.metrics import actions
from xp.metrics.intervals import RESAMPLES, Sums, bootstrap, paired_difference, sum_by_episode

KINDS: dict[str, actions.Kind] = {"mse": "squared", "mae": "absolute"}


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are drawn; one seed for all, so that differences are paired."""

    seed: int = 0
    resamples: int = RESAMPLES

    def bootstrap(self, data: Sums) -> dict[str, Any]:
        """The interval of a mean error (see `intervals.bootstrap`)."""
        return bootstrap(data, seed=self.seed, resamples=self.resamples)

    def difference(self, first: Sums, second: Sums) -> dict[str, Any]:
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
    truth: np.ndarray, valid: np.ndarray, episode_index: np.ndarray, statistics: Mapping[str, Any]
) -> Callable[[np.ndarray], Scores]:
    """A function from predictions [N, H, A] in dataset units to `Scores` against `truth` [N, H, A].

    `valid` [N, H]; `episode_index` [N]; `statistics` is the `action` entry of the dataset statistics.
    """
    units = {"dataset": np.float64(1.0), "normalised": actions.scale_of(statistics)}

    def score(predictions: np.ndarray) -> Scores:
        sums = {}
        for unit, scale in units.items():
            sums[unit] = {}
            for metric, kind in KINDS.items():
                error = actions.errors(predictions / scale, truth / scale, valid, kind).mean(axis=-1)
                sums[unit][metric] = sum_by_episode(error, valid, episode_index, per_step=True)
        return Scores(**sums)

    return score


def described(scores: Scores, resampling: Resampling) -> dict[str, Any]:
    """Mse and mae with intervals in normalised units, then per step, and the same in dataset units."""
    result: dict[str, Any] = _means(scores.normalised, resampling)
    result["dataset_units"] = _means(scores.dataset, resampling)
    result["per_step"] = {
        "normalised": {metric: curve(data, resampling) for metric, data in scores.normalised.items()},
        "dataset_units": {metric: curve(data, resampling) for metric, data in scores.dataset.items()},
    }
    return result


def curve(data: Sums, resampling: Resampling) -> dict[str, Any]:
    """The mean at each step [H], the ends of its interval, and how many true steps stand behind it."""
    ends = resampling.bootstrap(data)
    steps = data.counts.sum(axis=0).astype(int)
    return {"value": data.mean(), "low": ends["low"], "high": ends["high"], "num_steps": steps}


def comparison(own: Scores, rival: Scores, resampling: Resampling) -> dict[str, Any]:
    """Per metric: whether the intervals are apart with `own` below, and the paired difference own minus rival."""
    result = {}
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


def by_episode(own: Scores) -> dict[str, Any]:
    """Mean error of each held-out episode (normalised); with the step counts, two runs can be compared in pairs."""
    means = {metric: own.pooled(metric) for metric in KINDS}
    any_metric = means["mse"]
    errors = {metric: data.sums / np.maximum(data.counts, 1) for metric, data in means.items()}
    return {"index": any_metric.episodes, "num_steps": any_metric.counts.astype(int), **errors}


def sums_from_episodes(episodes: Mapping[str, Any], metric: str) -> Sums:
    """The sums behind `by_episode`'s entry of a metrics.json, for comparing runs."""
    counts = np.asarray(episodes["num_steps"], dtype=np.float64)
    means = np.asarray(episodes[metric], dtype=np.float64)
    return Sums(episodes=np.asarray(episodes["index"]), sums=means * counts, counts=counts, windows=0)


def _means(by_metric: Mapping[str, Sums], resampling: Resampling) -> dict[str, Any]:
    means: dict[str, Any] = {metric: float(pooled(data).mean()) for metric, data in by_metric.items()}
    return {**means, **{f"{metric}_interval": resampling.bootstrap(pooled(data)) for metric, data in by_metric.items()}}
