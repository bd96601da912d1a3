"""How often each training window of a dataset is seen relative to its others: weights of its tasks and episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from xp.config.dataset_facts import choose_tasks
from xp.config.mixture import MemberOptions
from xp.data.dataset import Dataset
from xp.errors import UserError, some
from xp.foreign.json_file import read_json
from xp.foreign.paths import RefusedError
from xp.json_types import JSON

COLUMN = "column:"
"""What `episode_weights` begins with where it names a column of the dataset's table of episodes."""
_LARGEST = 1 << 27


@runtime_checkable
class HasEpisodeColumns(Protocol):
    """A dataset with a table of its episodes, of which more is known than the protocol `Dataset` asks."""

    def episode_column(self, name: str) -> Float[np.ndarray, " episodes"]:
        """A column of numbers (true counts as 1) by episode.

        Raises:
            UserError: no such column, or one that holds no numbers.
        """
        ...


@dataclass(frozen=True)
class Stratum:
    """Windows of one dataset whose share of the samples is kept exactly: all of them, or those of one task."""

    name: str
    """The task; empty for all."""
    windows: Int[np.ndarray, " chosen"]
    """Numbers of the windows among the dataset's training windows."""
    weights: Float[np.ndarray, " chosen"] | None
    """Relative weights within the stratum; None where all are alike."""
    mass: float
    """Of the stratum, relative to the dataset's others."""


def episode_weights(member: MemberOptions, dataset: Dataset) -> Float[np.ndarray, " episodes"]:
    """The weight of each episode, by its own and its task's.

    Raises:
        UserError: an episode or task that the dataset does not have, a file or column that does not say so many
            weights, a weight that is negative or not finite, or none above 0.
    """
    weights = _by_episode(member, dataset) * _by_task(member, dataset)[dataset.episodes.task_index]
    if not (weights > 0).any():
        raise UserError(
            f"{member.key}: its episode_weights and task_weights leave no episode of {dataset.root} a weight above 0. "
            f"Type {member.key}.weight=0 to leave the dataset out."
        )
    return weights


def strata(
    member: MemberOptions,
    dataset: Dataset,
    episodes: Sequence[int],
    weights: Float[np.ndarray, " episodes"],
) -> list[Stratum]:
    """The strata of a dataset: one for each task where tasks have weights, else one.

    Args:
        member: how it is weighed.
        dataset: the dataset.
        episodes: its training episodes, in the order of its windows, each of a weight above 0.
        weights: of all episodes, as `episode_weights` gives them.
    """
    chosen = np.asarray(episodes, np.int64)
    lengths = dataset.episodes.lengths[chosen]
    window_weights = np.repeat(weights[chosen], lengths)
    tasks = np.repeat(dataset.episodes.task_index[chosen], lengths)
    if not member.task_weights:
        return [_stratum("", np.arange(len(tasks)), window_weights)]
    found = []
    for task in np.unique(tasks):
        own = np.flatnonzero(tasks == task)
        found.append(_stratum(dataset.episodes.texts[int(task)], own, window_weights[own]))
    return sorted(found, key=lambda each: each.name)


def _stratum(name: str, windows: np.ndarray, weights: np.ndarray) -> Stratum:
    alike = bool((weights == weights[0]).all())
    return Stratum(name, windows, None if alike else weights, float(weights.sum()))


def _by_task(member: MemberOptions, dataset: Dataset) -> np.ndarray:
    found = np.ones(len(dataset.tasks))
    texts = list(dataset.tasks)
    for pattern, weight in member.task_weights.items():
        for task in choose_tasks(f"{member.key}.task_weights", [pattern], texts, dataset.root):
            found[texts.index(task)] = weight
    return found


def _by_episode(member: MemberOptions, dataset: Dataset) -> np.ndarray:
    given, key = member.episode_weights, f"{member.key}.episode_weights"
    if given is None:
        return np.ones(dataset.episodes.num)
    if isinstance(given, Mapping):
        return _of_some(given, dataset, key)
    if given.startswith(COLUMN):
        return _checked(_column(given.removeprefix(COLUMN), dataset, key), f"{key}={given}")
    return _of_file(Path(given).expanduser(), dataset, key)


def _column(name: str, dataset: Dataset, key: str) -> np.ndarray:
    if not isinstance(dataset, HasEpisodeColumns):
        raise UserError(
            f"{key}={COLUMN}{name}: {dataset.root} is of a format without a table of episodes. Give the weights in a "
            f"file: {key}=FILE.json"
        )
    return dataset.episode_column(name)


def _of_file(path: Path, dataset: Dataset, key: str) -> np.ndarray:
    """A list with a weight for each episode, or an object of those that are not 1."""
    try:
        content = read_json(path, "weights of episodes", most=_LARGEST)
    except RefusedError as error:
        raise UserError(
            f"{key}={path} cannot be read: {error}. It is a JSON file: a list with a weight for each episode, or "
            f'{{"EPISODE": WEIGHT}}; {COLUMN}NAME takes a column of the table of episodes.'
        ) from error
    where = f"{key}={path}"
    if isinstance(content, Mapping):
        return _of_some({_number(name, where): value for name, value in content.items()}, dataset, where)
    if not isinstance(content, list):
        raise UserError(f"{where} holds {type(content).__name__}: expected a list or an object of weights.")
    if len(content) != dataset.episodes.num:
        raise UserError(
            f"{where} has {len(content)} weights; {dataset.root} has {dataset.episodes.num} episodes. Give one for "
            'each, or an object {"EPISODE": WEIGHT} of those that are not 1.'
        )
    return _checked(_floats(content, where), where)


def _of_some(given: Mapping[int, JSON], dataset: Dataset, where: str) -> np.ndarray:
    unknown = [number for number in given if not 0 <= number < dataset.episodes.num]
    if unknown:
        raise UserError(
            f"{where} names the episodes {some(map(str, unknown))}; {dataset.root} has 0..{dataset.episodes.num - 1}. "
            "Leave them out."
        )
    found = np.ones(dataset.episodes.num)
    found[list(given)] = _floats(list(given.values()), where)
    return _checked(found, where)


def _number(name: str, where: str) -> int:
    if not name.isdecimal():
        raise UserError(f"{where} names the episode {name!r}: expected a number, counted from 0.")
    return int(name)


def _floats(values: Sequence[JSON], where: str) -> np.ndarray:
    for place, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where} holds {value!r} at place {place}: expected a number of 0 or more.")
    return np.asarray(values, np.float64)


def _checked(weights: np.ndarray, where: str) -> np.ndarray:
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise UserError(
            f"{where} gives the episode {wrong[0]} the weight {weights[wrong[0]]}: expected finite numbers of 0 or "
            "more, where 0 drops an episode."
        )
    return weights
