"""Statistics of actions and states over training episodes, in the form of Octo's `dataset_statistics.json`.

Rules of Octo's `normalize_action_and_proprio` (NORMAL): normalised = (x - mean) / (std + 1e-8) and back x * std + mean,
where `mask` is True; other dimensions pass through unchanged.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xp import atomic
from xp.data.dataset import Dataset
from xp.data.relative import check_anchor_names
from xp.errors import UserError, join_names
from xp.foreign.json_file import Fields, read_object
from xp.foreign.statistics import checked_statistics
from xp.foreign.text import printable

ROUNDING = 4 * 2.0**-23
"""A dimension whose std is at most this part of its largest value is constant: it varies by a few units of the last
place of float32, and dividing by that would only blow up rounding noise. So it passes through. What counts is the size
of the values: a joint parked at 1000 jitters by 6e-5, and a signal of size 3e-7 about 0 is a signal."""
_EPSILON = 1e-8
_SMALL_STD = 1e-6
_GROUPS = ("action", "proprio", "environment_state")


def compute_statistics(dataset: Dataset, episodes: Sequence[int]) -> dict[str, Any]:
    """Exact statistics of the given episodes only, accumulated in float64.

    Returns:
        `action` and `proprio` (the state), each with float32 arrays `mean`, `std` (population), `min`, `max`, `p01`,
        `p99` (linear interpolation) of shape [A] or [S] and a bool `mask` (False where nothing varies, see `varies`);
        `num_transitions` and `num_trajectories`. With S = 0 the arrays of `proprio` are empty. A dataset with an
        environment state also has `environment_state`, of shape [E]. Of a dataset with groups of dimensions these are
        the columns as they are, with the zeros beyond a group's own widths.

    Raises:
        UserError: no episodes.
    """
    if not len(episodes):
        raise UserError(
            f"No training episode of {dataset.root} is left to take statistics from. Lower data.val_fraction, or "
            "choose more tasks with data.tasks."
        )
    rows = dataset.rows(list(episodes))
    around = {"environment_state": describe(dataset.environment_state[rows])} if dataset.environment_dim else {}
    return {
        "action": describe(dataset.action[rows]),
        "proprio": describe(dataset.state[rows]),
        **around,
        "num_transitions": len(rows),
        "num_trajectories": len(episodes),
    }


def describe(values: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics over the first axis of `values` [n, D], n >= 1."""
    wide = values.astype(np.float64)
    std = wide.std(axis=0)
    low, high = np.quantile(wide, [0.01, 0.99], axis=0)
    found = {
        "mean": wide.mean(axis=0),
        "std": std,
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "p01": low,
        "p99": high,
    }
    return {
        **{name: np.asarray(v, np.float32) for name, v in found.items()},
        "mask": varies(std, np.abs(wide).max(axis=0)),
    }


def varies(std: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Which dimensions vary by more than rounding, and by enough to be a normal number in float32.

    Args:
        std: [D], of values that were float32.
        largest: [D], the largest magnitude of those values.
    """
    return (std > ROUNDING * largest) & (std >= np.finfo(np.float32).tiny)


def delta_statistics(
    dataset: Dataset, episodes: Sequence[int], lags: Iterable[tuple[int, int]], anchor: str, exclude: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """Statistics of action differences over the given episodes only, in float64.

    For every frame t and lag (i, j) the difference action[t+j] - anchor[t+i] counts where t+i and t+j lie in the
    episode of t: what a training window would pad is left out. A lag that is given twice counts twice.

    Args:
        dataset: the dataset.
        episodes: the training episodes.
        lags: pairs (anchor step, predicted step) relative to t.
        anchor: "action", or "observation.state", whose first A dimensions are then taken.
        exclude: dimensions that stay absolute (nothing is subtracted).

    Returns:
        mean, std (population; 1 where the differences are rounding alone, which must not be blown up), min, max, q01,
        q99 [A] float64, and count [1].

    Raises:
        UserError: not one pair lies inside an episode, or names say that the state is in another order.
    """
    if anchor == "observation.state":
        check_anchor_names(dataset, exclude)
    actions = dataset.action.astype(np.float64)
    anchors = actions.copy() if anchor == "action" else _widened(dataset.state, actions.shape[1])
    anchors[:, list(exclude)] = 0.0
    rows = dataset.rows(list(episodes))
    first = dataset.episodes.starts[dataset.episode_index[rows]]
    last = first + dataset.episodes.lengths[dataset.episode_index[rows]] - 1
    parts = []
    for before, after in lags:
        inside = (rows + min(before, after) >= first) & (rows + max(before, after) <= last)
        parts.append(actions[rows[inside] + after] - anchors[rows[inside] + before])
    deltas = np.concatenate(parts) if parts else actions[:0]
    if not len(deltas):
        raise UserError(
            f"action_space=relative: no training episode of {dataset.root} is long enough for one difference between "
            "actions of a window. Type a smaller horizon.train."
        )
    low, high = np.quantile(deltas, [0.01, 0.99], axis=0)
    std, largest = deltas.std(axis=0), np.maximum(np.abs(actions[rows]), np.abs(anchors[rows])).max(axis=0)
    found = {"mean": deltas.mean(axis=0), "std": np.where(varies(std, largest), std, 1.0), "min": deltas.min(axis=0)}
    return {**found, "max": deltas.max(axis=0), "q01": low, "q99": high, "count": np.array([len(deltas)])}


def _widened(state: np.ndarray, width: int) -> np.ndarray:
    """The first `width` dimensions of a state [N, S], with zeros where it has fewer."""
    wide = np.zeros((len(state), width), np.float64)
    wide[:, : min(width, state.shape[1])] = state[:, :width]
    return wide


def normalise(values: np.ndarray, statistics: Mapping[str, Any]) -> np.ndarray:
    """Dataset units to normalised units: [..., D] float32, by one entry (`action` or `proprio`) of the statistics."""
    mean, std, mask = _arrays(statistics)
    return np.where(mask, (values - mean) / (std + np.float32(_EPSILON)), values).astype(np.float32)


def unnormalise(values: np.ndarray, statistics: Mapping[str, Any]) -> np.ndarray:
    """Normalised units to dataset units: [..., D] float32.

    Octo's inverse has no epsilon, which makes no difference above a std of 1e-6; below, it is added here, as otherwise
    this would not be the inverse.
    """
    mean, std, mask = _arrays(statistics)
    scale = np.where(std < _SMALL_STD, std + np.float32(_EPSILON), std)
    return np.where(mask, values * scale + mean, values).astype(np.float32)


def _arrays(statistics: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = np.asarray(statistics["mean"], np.float32)
    mask = statistics.get("mask")
    # Octo's older files have no mask: every dimension is normalised.
    return (
        mean,
        np.asarray(statistics["std"], np.float32),
        np.ones(mean.shape, bool) if mask is None else np.asarray(mask),
    )


def save_statistics(path: str | Path, statistics: Mapping[str, Any]) -> None:
    """Write statistics as JSON, atomically; float32 values survive exactly."""
    atomic.write_json(path, statistics)


def load_statistics(path: str | Path) -> dict[str, Any]:
    """Read what `save_statistics` wrote: the same arrays, bit for bit.

    Raises:
        UserError: the file is missing, is no statistics file, or holds statistics that nothing can be normalised by.
    """
    what = "the dataset_statistics.json that a training run and task=split write"
    raw = read_object(path, what)
    if "action" not in raw:
        raise UserError(
            f"{path} has no statistics of 'action' (it has: {printable(join_names(raw))}): expected "
            f"{what}. Take it from "
            "the run's folder, or leave data.statistics out."
        )
    groups = {
        group: checked_statistics(raw[group], f"{printable(path)}: {group}", positive=True)
        for group in _GROUPS
        if group in raw
    }
    for name in ("num_transitions", "num_trajectories"):
        if name in raw:
            Fields(raw, str(path)).integer(name, low=1)
    return {**raw, **groups}
