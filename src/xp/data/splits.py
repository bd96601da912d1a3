"""Which episodes train and which are held out: seeded, per task, nothing dropped, written down as a manifest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xp import atomic
from xp.config.dataset_facts import choose_tasks
from xp.config.unknown_keys import shown
from xp.data.dataset import Dataset, is_of
from xp.errors import UserError, join_names
from xp.foreign.text import printable
from xp.json_types import JSON, JSONObject


@dataclass(frozen=True)
class Split:
    """Episode numbers, ascending. `about` says how the split was made, and of which dataset (its fingerprint)."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    about: JSONObject = field(default_factory=dict, compare=False)

    def save(self, path: str | Path) -> None:
        """Write the manifest as JSON, atomically."""
        atomic.write_json(path, {"train": list(self.train), "val": list(self.val), **self.about})

    @classmethod
    def load(cls, path: str | Path) -> "Split":
        """Read a manifest.

        Raises:
            UserError: the file is missing or is no manifest.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            train, val = (tuple(int(e) for e in raw.pop(name)) for name in ("train", "val"))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else printable(error)
            raise UserError(
                f"{path} cannot be read as a split manifest ({why}). It is a JSON object "
                'with the episode numbers {"train": [...], "val": [...]}; remove the file to split again.'
            ) from error
        return cls(train, val, raw)

    @property
    def alone(self) -> tuple[str, ...]:
        """Tasks of which nothing is held out because they have one episode, as far as the manifest says."""
        given = self.about.get("not_held_out", ())
        return tuple(map(str, given)) if isinstance(given, list | tuple) else ()

    def note(self) -> str:
        """How many episodes train and are held out, and of which tasks none is, in a line."""
        line = f"{len(self.train)} episodes train, {len(self.val)} are held out"
        if not self.alone:
            return line
        shown = ", ".join(map(repr, self.alone[:3])) + (", ..." if len(self.alone) > 3 else "")
        return f"{line}; none of {len(self.alone)} tasks that have one episode each ({shown})"

    def check_held_out(self, where: str | Path) -> None:
        """Refuse a share of every task's episodes that comes to nothing: nobody would watch the training.

        Raises:
            UserError: what there is, and what to type.
        """
        fraction = self.about.get("val_fraction")
        if not isinstance(fraction, int | float) or not fraction or self.val:
            return
        one = len(self.train) == 1
        there = "one episode" if one else f"one episode of each of its {len(self.train)} tasks"
        raise UserError(
            f"{where} has {there}, so data.val_fraction={fraction:g} holds out nothing: a share is taken of each "
            "task's episodes, and one of them always trains. Type data.val_fraction=0 to train without validation"
            + (
                ", or record more."
                if one
                else "; to hold out whole tasks, data.split=MANIFEST, a JSON file with "
                'episode numbers {"train": [...], "val": [...]}.'
            )
        )

    def check(self, dataset: Dataset) -> None:
        """Refuse to use this split with another dataset than the one it was made from.

        Raises:
            UserError: the fingerprints differ, or an episode number is too large.
        """
        made_from = self.about.get("dataset")
        if made_from is not None and not is_of(dataset, made_from):
            raise UserError(
                f"The split manifest was made from another dataset than {dataset.root} ({str(made_from)[:12]}..., not "
                f"{dataset.fingerprint[:12]}...): its episode numbers mean something else. Give the dataset it was "
                "made from (data.root=<folder>), or remove the manifest to split again."
            )
        largest = max((*self.train, *self.val), default=0)
        if largest >= dataset.episodes.num:
            raise UserError(
                f"The split manifest names episode {largest}; {dataset.root} has {dataset.episodes.num} episodes. "
                "Remove the manifest to split again."
            )


def split_episodes(
    dataset: Dataset,
    *,
    val_fraction: float,
    seed: int,
    tasks: Sequence[str | int] | None = None,
    exclude_tasks: Sequence[str | int] | None = None,
    num_val: int | None = None,
) -> Split:
    """Divide the episodes of the chosen tasks into training and validation.

    Each task is shuffled by (seed, its text) alone and gives its first episodes to validation: `val_fraction` of them
    rounded half up, at least one where it has two or more, and never all. So which episodes of a task are held out
    does not depend on the other tasks chosen, and a larger fraction holds out a superset.

    Args:
        dataset: The dataset.
        val_fraction: From 0 (no validation at all) to below 1.
        seed: Non-negative.
        tasks: Task texts, patterns with * and ?, or task numbers to take; None for all.
        exclude_tasks: The same, to leave out.
        num_val: How many validation episodes in all, instead of `val_fraction`; shared out in proportion to the tasks.

    Raises:
        UserError: an unknown task, no episode left, or numbers that cannot be met.
    """
    chosen = _choose(dataset, tasks, exclude_tasks)
    counts = [len(episodes) for episodes in chosen.values()]
    if num_val is None:
        held = [_held_out(count, val_fraction) for count in counts]
    else:
        held = _share_out(counts, num_val)
    train, val = _divide(chosen, held, seed)
    about: dict[str, JSON] = {
        "dataset": dataset.fingerprint,
        "seed": seed,
        "val_fraction": val_fraction if num_val is None else None,
        "num_val": num_val,
        "tasks": list(chosen),
    }
    alone = [task for task, episodes in chosen.items() if len(episodes) == 1]
    if val_fraction and num_val is None and alone:
        about["not_held_out"] = alone
    return Split(train, val, about)


def hold_out(
    episodes_of: Mapping[str, Sequence[int]], fraction: float, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(training, held-out) episodes of {task text: episode numbers}, by the rule of `split_episodes`."""
    return _divide(episodes_of, [_held_out(len(episodes), fraction) for episodes in episodes_of.values()], seed)


def first_of_tasks(
    episodes: Sequence[int], task_of: Mapping[int, str] | Sequence[str], limit: int | None
) -> tuple[int, ...]:
    """The first `limit` of `episodes`, taken evenly over their tasks, ascending; all of them where it is None."""
    by_task: dict[str, list[int]] = {}
    for episode in episodes:
        by_task.setdefault(task_of[episode], []).append(episode)
    rounds = max(map(len, by_task.values()), default=0)
    turn = [each[i] for i in range(rounds) for each in by_task.values() if i < len(each)]
    return tuple(sorted(turn[:limit]))


def _divide(
    episodes_of: Mapping[str, Sequence[int]], held: Sequence[int], seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Hold out the first `held` episodes of each task in its shuffled order."""
    train: list[int] = []
    val: list[int] = []
    for (task, episodes), count in zip(episodes_of.items(), held, strict=True):
        shuffled = [episodes[i] for i in shuffled_order(task, len(episodes), seed)]
        val += shuffled[:count]
        train += shuffled[count:]
    return tuple(sorted(train)), tuple(sorted(val))


def _choose(
    dataset: Dataset, tasks: Sequence[str | int] | None, exclude_tasks: Sequence[str | int] | None
) -> dict[str, list[int]]:
    """Task text to its episode numbers, for the chosen tasks that have any."""
    wanted = list(dataset.tasks) if tasks is None else choose_tasks("data.tasks", tasks, dataset.tasks, dataset.root)
    unwanted = choose_tasks("data.exclude_tasks", exclude_tasks or (), dataset.tasks, dataset.root)
    chosen: dict[str, list[int]] = {task: [] for task in dataset.tasks if task in wanted and task not in unwanted}
    for episode, task in enumerate(dataset.episodes.tasks):
        if task in chosen:
            chosen[task].append(episode)
    chosen = {task: episodes for task, episodes in chosen.items() if episodes}
    if not chosen:
        raise UserError(
            f"No episode of {dataset.root} is left after data.tasks={shown(tasks)} and "
            f"data.exclude_tasks={shown(exclude_tasks)}. "
            f"Its tasks are: {join_names(repr(task) for task in dataset.tasks)}."
        )
    return chosen


def _held_out(count: int, fraction: float) -> int:
    """Validation episodes of a task with `count` episodes."""
    if not 0 <= fraction < 1:
        raise UserError(f"data.val_fraction={fraction} is not possible. Type a number from 0 to below 1, such as 0.1.")
    if fraction == 0 or count < 2:
        return 0
    return min(max(int(count * fraction + 0.5), 1), count - 1)


def _share_out(counts: list[int], total: int) -> list[int]:
    """Share `total` among tasks in proportion to `counts`, from 1 to count - 1 each (0 for single episodes).

    Largest remainders (Hamilton's method), with the bounds.
    """
    lower = [min(count - 1, 1) for count in counts]
    upper = [count - 1 for count in counts]
    if not sum(lower) <= total <= sum(upper):
        raise UserError(
            f"data.num_val={total} is not possible: {len(counts)} tasks with {sum(counts)} episodes allow from "
            f"{sum(lower)} (one for each task) to {sum(upper)} (one left for training). Type a number in between."
        )
    ideal = [total * count / sum(counts) for count in counts]
    shares = [min(max(int(want), low), high) for want, low, high in zip(ideal, lower, upper, strict=True)]
    while (missing := total - sum(shares)) != 0:
        step = 1 if missing > 0 else -1
        movable = [i for i, share in enumerate(shares) if lower[i] <= share + step <= upper[i]]
        best = max(movable, key=lambda i: (step * (ideal[i] - shares[i]), -i))
        shares[best] += step
    return shares


def shuffled_order(task: str, count: int, seed: int) -> Int[np.ndarray, " {count}"]:
    """A shuffled order of `count` episodes, a pure function of (task, count, seed); see `batches.random_words`."""
    if seed < 0:
        raise UserError(f"seed={seed} is not possible: seeds are 0 or more. Type for instance seed=0.")
    words = np.frombuffer(hashlib.sha256(task.encode()).digest(), dtype="<u4")
    sequence = np.random.SeedSequence([seed, *words.tolist()])
    return np.argsort(np.random.Philox(sequence).random_raw(count), kind="stable")
