"""Statistics of action differences, in plain NumPy.

A policy that predicts differences must be normalised by the spread of differences: on a smooth motion they are far
smaller than the actions themselves.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class SupportsArray(Protocol):
    """What numpy makes an array of, such as a torch tensor on the CPU."""

    def __array__(self) -> np.ndarray:
        """The array."""
        ...


type FeatureStatistics = Mapping[str, np.ndarray | Sequence[float] | SupportsArray]
"""Of one feature, as LeRobot has them: `mean`, `std`, `min`, `max`, ..., each [dim]."""
type Statistics = Mapping[str, FeatureStatistics]
"""Those of a dataset by feature."""
STATISTICS_KEY = "action_delta"
"""Where LeRobot's dictionary of dataset statistics carries those of differences."""


def delta_statistics(
    actions: np.ndarray,
    episode_index: np.ndarray,
    lags: Iterable[tuple[int, int]],
    *,
    anchors: np.ndarray | None = None,
    episodes: Sequence[int] | None = None,
    absolute_dims: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """Mean, standard deviation (ddof 0), minimum, maximum and count of action differences.

    For every frame t and lag (i, j) the difference actions[t+j] - anchors[t+i] counts where t, t+i and t+j lie in one
    episode: what a training window would pad is left out. A lag that is given twice counts twice.

    Args:
        actions: [N, A], frames of an episode standing together and in order.
        episode_index: [N].
        lags: Pairs (anchor step, predicted step) relative to t, for instance (0, 3).
        anchors: What is subtracted, [N, A]; None: the actions themselves.
        episodes: Only these episodes (the training episodes); None: all.
        absolute_dims: Dimensions whose anchor is zero (such as a gripper that stays absolute).

    Returns:
        {"mean", "std", "min", "max"} float64 [A] and "count" int64 [1], the number of differences.

    Raises:
        ValueError: shapes that do not fit, or not one valid difference.
    """
    actions = np.asarray(actions, dtype=np.float64)
    anchors = actions if anchors is None else np.asarray(anchors, dtype=np.float64)
    episode_index = np.asarray(episode_index).reshape(-1)
    lags = list(lags)
    _check(actions, anchors, episode_index)
    if absolute_dims:
        anchors = anchors.copy()
        anchors[:, list(absolute_dims)] = 0.0
    keep = np.ones(len(actions), bool) if episodes is None else np.isin(episode_index, list(episodes))
    count, mean, m2 = 0, np.zeros(actions.shape[1]), np.zeros(actions.shape[1])
    low, high = np.full(actions.shape[1], np.inf), np.full(actions.shape[1], -np.inf)
    for (anchor, step), weight in sorted(Counter(lags).items()):
        delta = _differences(actions, anchors, episode_index, keep, anchor, step)
        if not len(delta):
            continue
        low, high = np.minimum(low, delta.min(0)), np.maximum(high, delta.max(0))
        # Merge of two sets' moments: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm", 1979.
        n = weight * len(delta)
        shift = delta.mean(0) - mean
        m2 += weight * ((delta - delta.mean(0)) ** 2).sum(0) + shift**2 * count * n / (count + n)
        mean += shift * n / (count + n)
        count += n
    if not count:
        raise ValueError(
            f"No action difference is left for statistics: of {len(actions)} frames in "
            f"{len(np.unique(episode_index))} episodes, {int(keep.sum())} belong to the chosen episodes, and none has "
            f"the steps {lags[:3]}... inside its episode. Choose other episodes or a shorter chunk."
        )
    return {"mean": mean, "std": np.sqrt(m2 / count), "min": low, "max": high, "count": np.array([count])}


def _check(actions: np.ndarray, anchors: np.ndarray, episode_index: np.ndarray) -> None:
    if actions.ndim != 2 or anchors.shape != actions.shape:
        raise ValueError(
            f"Actions {actions.shape} and their anchors {anchors.shape} must be one shape [frames, dimensions]."
        )
    if len(episode_index) != len(actions):
        raise ValueError(f"There are {len(actions)} actions but {len(episode_index)} episode indices.")


def _differences(
    actions: np.ndarray, anchors: np.ndarray, episode: np.ndarray, keep: np.ndarray, anchor: int, step: int
) -> np.ndarray:
    """actions[t+step] - anchors[t+anchor] [n, A] for the kept frames t where both lie in the episode of t."""
    first, last = min(0, anchor, step), max(0, anchor, step)
    if last - first >= len(actions):
        return actions[:0]
    t = np.arange(-first, len(actions) - last)
    t = t[keep[t] & (episode[t + first] == episode[t]) & (episode[t + last] == episode[t])]
    return actions[t + step] - anchors[t + anchor]


def action_slope(stats: FeatureStatistics, mode: str, eps: float = 1e-8) -> np.ndarray:
    """d(normalised action) / d(action) [A] of LeRobot's normaliser in `mode` (its `NormalizationMode` name).

    Raises:
        ValueError: a mode without a slope here, or statistics that lack what it needs.
    """
    needed = {
        "MEAN_STD": ("std",),
        "MIN_MAX": ("min", "max"),
        "QUANTILES": ("q01", "q99"),
        "QUANTILE10": ("q10", "q90"),
        "IDENTITY": (),
    }
    if mode not in needed:
        raise ValueError(f"Actions normalised by {mode} have no slope here; known: {', '.join(needed)}.")
    missing = [name for name in needed[mode] if name not in stats]
    if missing:
        raise ValueError(f"Normalising actions by {mode} needs the statistics {missing}; there are {sorted(stats)}.")
    values = [np.asarray(stats[name], dtype=np.float64).reshape(-1) for name in needed[mode]]
    if not values:
        return np.ones(1)
    if len(values) == 1:
        return 1 / (values[0] + eps)
    width = values[1] - values[0]
    return 2 / np.where(width == 0, eps, width)


def read_actions(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """(actions [N, A], episode_index [N]) of the LeRobot dataset in `root`, in the order of its frames.

    Raises:
        ValueError: no parquet files there.
    """
    import pyarrow.parquet as pq

    files = sorted(Path(root).glob("data/**/*.parquet"))
    if not files:
        raise ValueError(f"There are no data/**/*.parquet files in {root}, so no action differences can be computed.")
    tables = [pq.read_table(file, columns=["action", "episode_index", "index"]) for file in files]
    actions = np.concatenate([np.stack(table["action"].to_numpy()) for table in tables])
    episodes = np.concatenate([table["episode_index"].to_numpy() for table in tables])
    order = np.argsort(np.concatenate([table["index"].to_numpy() for table in tables]), kind="stable")
    return actions[order], episodes[order]
