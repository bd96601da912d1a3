"""Learning histories cut into their attempts, and windows drawn as often as each attempt counts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from xp.data.array_dataset import ArrayDataset
from xp.data.batches import random_words
from xp.data.windows import Batch, Windows
from xp.errors import UserError


def by_attempt(dataset: ArrayDataset) -> ArrayDataset:
    """The same rows, every attempt an episode of its own, so that no window reaches from one into another.

    Raises:
        UserError: the dataset does not number the steps of its attempts.
    """
    if "step" not in dataset.columns:
        raise UserError(
            f"The dataset {dataset.root} does not say where its attempts begin. Give trajectories with steps."
        )
    starts = np.flatnonzero(np.asarray(dataset.columns["step"]) == 0)
    starts = np.unique(np.concatenate([dataset.episodes.starts, starts]))
    lengths = np.diff(np.append(starts, dataset.num_frames))
    history = dataset.episode_index[starts]
    groups = dataset.groups
    if groups is not None:
        groups = replace(groups, index=groups.index[history])
    return replace(dataset, lengths=lengths, episode_tasks=dataset.episodes.task_index[history], groups=groups)


def returns(dataset: ArrayDataset) -> Float[np.ndarray, " episodes"]:
    """The sum of rewards of each episode."""
    return np.add.reduceat(np.asarray(dataset.columns["reward"], np.float64), dataset.episodes.starts)


class DrawnWindows:
    """Batches of windows, each window drawn with the weight of its episode; a pure function of (seed, step).

    Args:
        parts: windows with a weight for each of their episodes.
        batch_size: B.
        seed: of the draws.

    Raises:
        UserError: no episode has a weight above 0.
    """

    def __init__(
        self, parts: Sequence[tuple[Windows, Float[np.ndarray, " _episodes"]]], *, batch_size: int, seed: int
    ) -> None:
        self._windows, self._batch, self._seed = [windows for windows, _ in parts], batch_size, seed
        weights = [
            np.repeat(weight, windows.dataset.episodes.lengths[list(windows.episodes)]) for windows, weight in parts
        ]
        self._of = np.repeat(np.arange(len(parts)), [len(each) for each in weights])
        self._index = np.concatenate([np.arange(len(each)) for each in weights])
        total = np.cumsum(np.concatenate(weights))
        if not total[-1] > 0:
            raise UserError("No attempt is to be learnt from: every weight is 0. Type loop.select=all.")
        self._share = total / total[-1]

    def at(self, step: int) -> Batch:
        """The batch at `step`."""
        uniform = (random_words(self._seed, 3, step, self._batch) >> np.uint64(11)) * 2.0**-53
        chosen = np.searchsorted(self._share, uniform, side="right")
        order = np.argsort(self._of[chosen], kind="stable")
        chosen = chosen[order]
        batches = [
            windows.batch(self._index[chosen[self._of[chosen] == part]])
            for part, windows in enumerate(self._windows)
            if (self._of[chosen] == part).any()
        ]
        return _joined(batches)


def _joined(batches: Sequence[Batch]) -> Batch:
    """Rows of several batches with the same keys, one after the other."""
    found: Batch = {}
    for key, first in batches[0].items():
        if isinstance(first, list):
            found[key] = [text for batch in batches for text in batch[key]]
        else:
            found[key] = np.concatenate([np.asarray(batch[key]) for batch in batches])
    return found
