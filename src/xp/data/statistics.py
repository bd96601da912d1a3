"""Statistics of actions and states over training episodes, in the form of Octo's `dataset_statistics.json`.

Rules of Octo's `normalize_action_and_proprio` (NORMAL): normalised = (x - mean) / (std + 1e-8) and back x * std + mean,
where `mask` is True; other dimensions pass through unchanged.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Num

from xp import atomic
from xp.data.dataset import Dataset, Groups
from xp.data.relative import check_anchor_names
from xp.errors import UserError, join_names
from xp.foreign.json_file import Fields, read_object
from xp.foreign.statistics import DatasetStatistics, FeatureStatistics, GroupStatistics, checked_statistics
from xp.foreign.text import printable

ROUNDING = 4 * 2.0**-23
"""A dimension whose std is at most this part of its largest value is constant: it varies by a few units of the last
place of float32, and dividing by that would only blow up rounding noise. So it passes through. What counts is the size
of the values: a joint parked at 1000 jitters by 6e-5, and a signal of size 3e-7 about 0 is a signal."""
_EPSILON = 1e-8
_SMALL_STD = 1e-6
_FEATURES = ("action", "proprio", "environment_state")

GivenStatistics = Mapping[str, np.ndarray | Sequence[float | int]]
"""The same, also as the lists of a file."""


def compute_statistics(dataset: Dataset, episodes: Sequence[int]) -> DatasetStatistics:
    """Exact statistics of the given episodes only, accumulated in float64.

    Returns:
        `action` and `proprio` (the state), each with float32 arrays `mean`, `std` (population), `min`, `max`, `p01`,
        `p99` (linear interpolation) of shape [A] or [S] and a bool `mask` (False where nothing varies, see `varies`);
        `num_transitions` and `num_trajectories`. With S = 0 the arrays of `proprio` are empty. A dataset with an
        environment state also has `environment_state`, of shape [E]. Of a dataset with groups of dimensions each
        dimension is taken over the rows whose group has it, and `groups` has, by name, the statistics of each group
        that has one of the episodes, as wide as its own actions and states.

    Raises:
        UserError: no episodes.
    """
    if not len(episodes):
        raise UserError(
            f"No training episode of {dataset.root} is left to take statistics from. Lower data.val_fraction, or "
            "choose more tasks with data.tasks."
        )
    rows = dataset.rows(list(episodes))
    groups = dataset.groups
    group = None if groups is None else groups.index[dataset.episode_index[rows]]
    found: DatasetStatistics = {
        "action": _describe(dataset.action[rows], group, None if groups is None else groups.action_dims),
        "proprio": _describe(dataset.state[rows], group, None if groups is None else groups.state_dims),
    }
    if dataset.environment_dim:
        found["environment_state"] = describe(dataset.environment_state[rows])
    found["num_transitions"] = len(rows)
    found["num_trajectories"] = len(episodes)
    if groups is not None:
        found["groups"] = _by_group(dataset, groups, np.asarray(list(episodes), dtype=np.int64))
    return found


def _by_group(dataset: Dataset, groups: Groups, episodes: Int[np.ndarray, " episodes"]) -> dict[str, GroupStatistics]:
    """The statistics of each group that has one of the episodes."""
    found: dict[str, GroupStatistics] = {}
    for number, name in enumerate(groups.names):
        own = episodes[groups.index[episodes] == number]
        if len(own):
            rows = dataset.rows(own)
            found[name] = {
                "action": describe(dataset.action[rows, : groups.action_dims[number]]),
                "proprio": describe(dataset.state[rows, : groups.state_dims[number]]),
                "num_transitions": len(rows),
                "num_trajectories": len(own),
            }
    return found


def _describe(
    values: Float[np.ndarray, "n width"], group: Int[np.ndarray, " n"] | None, dims: Sequence[int] | None
) -> dict[str, np.ndarray]:
    """`describe`, each dimension over the rows whose group (of the width `dims[group]`) has it."""
    if group is None or dims is None:
        return describe(values)
    widths = np.asarray(dims)[group]
    columns = [describe(values[widths > place, place : place + 1]) for place in range(int(widths.max()))]
    beyond = values.shape[1] - len(columns)
    found = {}
    for name in describe(values[:1]):
        filler = np.zeros(beyond, dtype=bool if name == "mask" else np.float32)
        found[name] = np.concatenate([column[name] for column in columns] + [filler])
    return found


def group_statistics(
    statistics: DatasetStatistics, groups: Groups, feature: Literal["action", "proprio"]
) -> dict[str, np.ndarray]:
    """The statistics of one feature for windows of all groups: arrays [G, D], for the row of each window's group.

    With `group_index` [B] of a batch, `{name: values[group_index][:, None] for name, values in ...}` are statistics
    for `normalise` of that batch's [B, T, D]. What is beyond a group's own width passes through unchanged (`mask`), as
    does everything of a group that has no statistics.

    Args:
        statistics: of the training episodes, with `groups`.
        groups: of the dataset.
        feature: which.
    """
    known = statistics.get("groups", {})
    width = max(groups.action_dims if feature == "action" else groups.state_dims)
    stacked = {
        "mean": np.zeros((len(groups.names), width), np.float32),
        "std": np.ones((len(groups.names), width), np.float32),
        "mask": np.zeros((len(groups.names), width), dtype=bool),
    }
    for number, name in enumerate(groups.names):
        if name in known:
            for key, values in stacked.items():
                own = known[name][feature][key]
                values[number, : len(own)] = own
    return stacked


def describe(values: Num[np.ndarray, "n width"]) -> dict[str, np.ndarray]:
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


def varies(std: Float[np.ndarray, " width"], largest: Float[np.ndarray, " width"]) -> Bool[np.ndarray, " width"]:
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


def _widened(state: Float[np.ndarray, "rows state"], width: int) -> Float[np.ndarray, "rows {width}"]:
    """The first `width` dimensions of a state [N, S], with zeros where it has fewer."""
    wide = np.zeros((len(state), width), np.float64)
    wide[:, : min(width, state.shape[1])] = state[:, :width]
    return wide


def normalise(
    values: Float[np.ndarray, "*batch width"], statistics: GivenStatistics
) -> Float32[np.ndarray, "*batch width"]:
    """Dataset units to normalised units: [..., D] float32, by one entry (`action` or `proprio`) of the statistics."""
    mean, std, mask = _arrays(statistics)
    return np.where(mask, (values - mean) / (std + np.float32(_EPSILON)), values).astype(np.float32)


def unnormalise(
    values: Float[np.ndarray, "*batch width"], statistics: GivenStatistics
) -> Float32[np.ndarray, "*batch width"]:
    """Normalised units to dataset units: [..., D] float32.

    Octo's inverse has no epsilon, which makes no difference above a std of 1e-6; below, it is added here, as otherwise
    this would not be the inverse.
    """
    mean, std, mask = _arrays(statistics)
    scale = np.where(std < _SMALL_STD, std + np.float32(_EPSILON), std)
    return np.where(mask, values * scale + mean, values).astype(np.float32)


def _arrays(statistics: GivenStatistics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = np.asarray(statistics["mean"], np.float32)
    mask = statistics.get("mask")
    # Octo's older files have no mask: every dimension is normalised.
    return (
        mean,
        np.asarray(statistics["std"], np.float32),
        np.ones(mean.shape, bool) if mask is None else np.asarray(mask),
    )


def save_statistics(path: str | Path, statistics: DatasetStatistics) -> None:
    """Write statistics as JSON, atomically; float32 values survive exactly."""
    atomic.write_json(path, statistics)


def load_statistics(path: str | Path) -> DatasetStatistics:
    """Read what `save_statistics` wrote: the same arrays, bit for bit.

    Raises:
        UserError: the file is missing, is no statistics file, or holds statistics that nothing can be normalised by.
    """
    what = "the dataset_statistics.json that a training run and task=split write"
    raw = Fields(read_object(path, what), str(path))
    if "action" not in raw:
        raise UserError(
            f"{path} has no statistics of 'action' (it has: {printable(join_names(raw.content))}): expected "
            f"{what}. Take it from "
            "the run's folder, or leave data.statistics out."
        )
    found: DatasetStatistics = {"action": _feature(raw, "action"), "proprio": _feature(raw, "proprio")}
    if "environment_state" in raw.content:
        found["environment_state"] = _feature(raw, "environment_state")
    if "num_transitions" in raw.content:
        found["num_transitions"] = raw.integer("num_transitions", low=1)
    if "num_trajectories" in raw.content:
        found["num_trajectories"] = raw.integer("num_trajectories", low=1)
    if "groups" in raw.content:
        found["groups"] = {name: _group(entry) for name, entry in raw.object("groups").objects()}
    return found


def _feature(fields: Fields, name: str) -> FeatureStatistics:
    """The checked statistics of one feature; a state that is not there has no dimensions."""
    if name == "proprio" and name not in fields.content:
        return describe(np.zeros((1, 0), np.float32))
    return checked_statistics(fields.content[name], fields.place(name), positive=True)


def _group(fields: Fields) -> GroupStatistics:
    if "action" not in fields:
        raise fields.refusal("action", "statistics of the group's actions")
    return {
        "action": _feature(fields, "action"),
        "proprio": _feature(fields, "proprio"),
        "num_transitions": fields.integer("num_transitions", low=1),
        "num_trajectories": fields.integer("num_trajectories", low=1),
    }
