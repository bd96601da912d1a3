"""Datasets of several rates as windows of one: every n-th row, actions taken or added up; never invented."""

from collections.abc import Sequence
from math import gcd
from typing import Any, cast

import numpy as np
from jaxtyping import Float32

from xp.config.mixture import MemberOptions
from xp.data.dataset import Dataset
from xp.errors import UserError, did_you_mean, join_names

_SLACK = 1e-6
"""Of a ratio of two rates: they are written with few digits."""


def common_rate(datasets: dict[str, Dataset], asked: float | None) -> float:
    """Steps per second of the mixture: what is asked for, or what all datasets have.

    Raises:
        UserError: they differ and nothing is asked for: says which rates would do.
    """
    rates = {name: dataset.fps for name, dataset in datasets.items()}
    if asked is not None:
        return asked
    if len(set(rates.values())) == 1:
        return next(iter(rates.values()))
    told = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    best = _common_divisor(list(rates.values()))
    raise UserError(
        f"The datasets of the mixture have several rates ({told} steps per second), so a chunk would last a different "
        "time in each. Give a common one, of which every rate is a multiple: data.fps="
        f"{best:g}, and say of the others how their actions come to it (data.mix.NAME.resample=every or sum)"
    )


def stride_of(member: MemberOptions, dataset: Dataset, fps: float) -> int:
    """How many of the dataset's rows a step of the mixture is.

    Raises:
        UserError: its rate is no multiple of the common one, or nothing says how its actions come to that.
    """
    ratio = dataset.fps / fps
    stride = round(ratio)
    if stride < 1 or abs(ratio - stride) > _SLACK * ratio:
        raise UserError(
            f"{member.key}: {dataset.root} has {dataset.fps:g} steps per second, no multiple of data.fps={fps:g}: "
            "actions between its own would have to be made up. Type a data.fps by which every rate can be divided, or "
            "leave the dataset out."
        )
    if stride > 1 and member.resample is None:
        raise UserError(
            f"{member.key}: {dataset.root} has {dataset.fps:g} steps per second and data.fps={fps:g}. Say what its "
            f"actions are: {member.key}.resample=every for targets (positions), of which every {stride}th is taken, or "
            f"{member.key}.resample=sum for movements, of which {stride} are added up"
        )
    if stride == 1 and (member.resample is not None or member.keep):
        raise UserError(
            f"{member.key}.resample={member.resample}: {dataset.root} has the mixture's rate already, {fps:g} steps "
            f"per second, so nothing is resampled. Type {member.key}.resample=null"
        )
    if member.keep and member.resample != "sum":
        raise UserError(f"{member.key}.keep is for resample=sum: with every, all dimensions are kept as they are.")
    return stride


def at_rate(member: MemberOptions, dataset: Dataset, stride: int) -> Dataset:
    """The dataset with its actions as a step of the mixture does them: `stride` of them added up for `sum`."""
    if member.resample != "sum":
        return dataset
    return cast(Dataset, _WithActions(dataset, mixed_actions(member, dataset, stride)))


def mixed_actions(member: MemberOptions, dataset: Dataset, stride: int) -> Float32[np.ndarray, "rows action"]:
    """Of each row the action of a step of the mixture that begins there."""
    if member.resample != "sum":
        return dataset.action
    return summed(dataset, stride, _kept(member, dataset.action_names))


def summed(dataset: Dataset, stride: int, kept: Sequence[int]) -> Float32[np.ndarray, "rows action"]:
    """Of each row the sum of its action and the next `stride` - 1 in its episode; `kept` dimensions as they are."""
    action, episodes = dataset.action, dataset.episodes
    found = action.copy()
    last = (episodes.starts + episodes.lengths - 1)[dataset.episode_index]
    rows = np.arange(len(action))
    for ahead in range(1, stride):
        inside = rows + ahead <= last
        found[inside] += action[rows[inside] + ahead]
    found[:, list(kept)] = action[:, list(kept)]
    return found


def _kept(member: MemberOptions, names: Sequence[str]) -> list[int]:
    for name in member.keep:
        if name not in names:
            raise UserError(
                f"{member.key}.keep names '{name}', which is no action of {member.root}{did_you_mean(name, names)}; "
                f"its actions are {join_names(names)}."
            )
    return [list(names).index(name) for name in member.keep]


def _common_divisor(rates: Sequence[float]) -> float:
    """The largest rate of which all are multiples, to a thousandth."""
    found = 0
    for rate in rates:
        found = gcd(found, round(rate * 1000))
    return found / 1000


class _WithActions:
    """A dataset with other actions; all else is the dataset's own."""

    def __init__(self, dataset: Dataset, action: np.ndarray) -> None:
        self._dataset, self.action = dataset, action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)
