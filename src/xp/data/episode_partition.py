"""Disjoint subsets of episodes, balanced over tasks: one model is trained on each, and the models are merged."""

from collections.abc import Mapping, Sequence

from xp.data.splits import shuffled_order
from xp.errors import UserError


def partition(episodes_of: Mapping[str, Sequence[int]], num: int, seed: int) -> list[tuple[int, ...]]:
    """Deal the episodes of every task into `num` subsets.

    Each task is shuffled by (seed, its text) and dealt like cards, each task going on where the last one stopped. So
    two subsets differ by at most one episode of each task and at most one in all, nothing is dropped, and the numbers
    are those of the dataset.

    Args:
        episodes_of: task text to its episode numbers.
        num: how many subsets.
        seed: non-negative.

    Returns:
        The episode numbers of each subset, ascending.

    Raises:
        UserError: more subsets than episodes.
    """
    total = sum(len(episodes) for episodes in episodes_of.values())
    if num > total:
        raise UserError(
            f"split.split_num={num} is more than the {total} training episodes there are: a subset needs at least "
            f"one. Give split.split_num=2..{total}, record more episodes, or hold out fewer (data.val_fraction, "
            "split.test_fraction)."
        )
    subsets: list[list[int]] = [[] for _ in range(num)]
    place = 0
    for task, episodes in episodes_of.items():
        for index in shuffled_order(task, len(episodes), seed):
            subsets[place % num].append(int(episodes[index]))
            place += 1
    return [tuple(sorted(subset)) for subset in subsets]


def by_task(tasks: Sequence[str], episodes: Sequence[int]) -> dict[str, list[int]]:
    """Group episode numbers by the task of each (`tasks` holds one text per episode of the dataset)."""
    groups: dict[str, list[int]] = {}
    for episode in episodes:
        groups.setdefault(tasks[episode], []).append(int(episode))
    return groups
