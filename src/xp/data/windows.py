"""Windows around frames: T observations up to frame t and the actions t-P .. t+H-1, as batches of numpy arrays."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from xp.data.dataset import Dataset, optional_columns, require_frames
from xp.data.frame_source import CameraFrames, frame_source
from xp.errors import UserError

Batch = dict[str, np.ndarray | list[str]]
"""Arrays by LeRobot's keys, and the list of texts `task`; keys and shapes as in `xp.models.policy.Batch`."""


@runtime_checkable
class NumberedWindows(Protocol):
    """Windows that are told by number, from 0 on: of one dataset (`Windows`) or of several (`xp.data.mixture`)."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def batch(self, indices: Int[np.ndarray, " batch"] | Sequence[int]) -> Batch:
        """The windows of these numbers as one batch; its arrays are copies that the caller may change."""
        ...

    @property
    def look_ahead(self) -> int:
        """How many batches are worth announcing (`expect`) before they are asked for; 0 where frames are at hand."""
        ...

    def expect(self, indices: Int[np.ndarray, " batch"] | Sequence[int]) -> None:
        """Say that the batch of these numbers will be asked for soon. A hint: it changes no byte."""
        ...


class Windows:
    """All windows of the chosen episodes: one per frame, in episode order.

    A window never leaves its episode. Where it would, its nearest frame is repeated and marked: observations before
    the first frame in `observation_is_pad`, actions before the first or after the last in `action_is_pad`. Optional
    columns of the dataset (`xp.data.dataset.OPTIONAL_COLUMNS`) are taken at the steps of the actions.

    Args:
        dataset: The dataset.
        frames: Camera name to its frames: an array [N, h, w, 3] uint8 or another `FrameSource`, such as `open_frames`
            gives.
        episodes: Episode numbers to take windows from.
        history: T >= 1, observations per window.
        horizon: H >= 1, actions from the last observed step on.
        before: P >= 0, actions before the last observed step; None for T - 1.
        stride: Rows from one step of a window to the next: above 1 for windows at a lower rate than the dataset's.
        cameras: {name in `frames`: the dataset's camera}, of those that the dataset calls otherwise.

    Raises:
        UserError: a history or horizon below 1, or no episodes, or an episode the dataset does not have; or frames that
            were not downloaded.
    """

    def __init__(
        self,
        dataset: Dataset,
        frames: CameraFrames,
        episodes: Sequence[int],
        *,
        history: int,
        horizon: int,
        before: int | None = None,
        stride: int = 1,
        cameras: Mapping[str, str] | None = None,
    ) -> None:
        _check(dataset, episodes, history, horizon)
        require_frames(dataset, [(cameras or {}).get(name, name) for name in frames], episodes)
        self.dataset = dataset
        self.frames = dict(frames)
        self.episodes = tuple(int(e) for e in episodes)
        self.history = history
        self.horizon = horizon
        chosen = np.asarray(self.episodes, dtype=np.int64)
        self._rows = dataset.rows(chosen)
        self._past = np.arange(1 - history, 1) * stride
        self.before = history - 1 if before is None else before
        self._steps = np.arange(-self.before, horizon) * stride
        self._sources = {name: frame_source(each) for name, each in self.frames.items()}
        self._optional = optional_columns(dataset)
        self._group_index = None if dataset.groups is None else dataset.groups.index
        self._tasks = np.asarray([*dataset.tasks, None], dtype=object)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Int[np.ndarray, " batch"] | Sequence[int]) -> Batch:
        """The windows numbered `indices` [B] as one batch; keys and shapes as in `xp.models.policy.Batch`.

        All arrays are copies that the caller may change.
        """
        data, row = self.dataset, self._rows[self._checked(indices)]
        episode = data.episode_index[row]
        seen, inside = self._observed_rows(row)
        near, is_pad = self._action_rows(row)
        batch: Batch = {f"observation.images.{name}": each.frames(inside) for name, each in self._sources.items()}
        batch["observation.state"] = data.state.take(inside, axis=0)
        if data.environment_dim:
            batch["observation.environment_state"] = data.environment_state.take(inside, axis=0)
        batch["observation_is_pad"] = inside != seen
        batch["action"] = data.action.take(near, axis=0)
        batch["action_is_pad"] = is_pad
        for name, column in self._optional.items():
            batch[name] = column.take(near, axis=0)
        if self._group_index is not None:
            batch["group_index"] = self._group_index[episode]
        batch["task"] = self._tasks[data.task_index[row]].tolist()
        batch["episode_index"] = episode
        batch["frame_index"] = data.frame_index[row]
        return batch

    @property
    def look_ahead(self) -> int:
        """How many batches are worth announcing (`expect`) before they are asked for; 0 where frames are at hand."""
        return max((each.look_ahead for each in self._sources.values()), default=0)

    def expect(self, indices: Int[np.ndarray, " batch"] | Sequence[int]) -> None:
        """Say that the batch of `indices` will be asked for soon, so that its frames can be read meanwhile."""
        _, inside = self._observed_rows(self._rows[self._checked(indices)])
        for each in self._sources.values():
            each.expect(inside)

    def actions(
        self, indices: Int[np.ndarray, " batch"] | Sequence[int]
    ) -> tuple[Float[np.ndarray, "batch steps action"], Bool[np.ndarray, "batch steps"]]:
        """`action` and `action_is_pad` of the windows numbered `indices`, as `batch` has them."""
        near, is_pad = self._action_rows(self._rows[self._checked(indices)])
        return self.dataset.action.take(near, axis=0), is_pad

    def _checked(self, indices: Int[np.ndarray, " batch"] | Sequence[int]) -> Int[np.ndarray, " batch"]:
        index = np.asarray(indices, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"windows are numbered 0..{len(self) - 1}, asked for {index.min()}..{index.max()}")
        return index

    def _observed_rows(
        self, row: Int[np.ndarray, " batch"]
    ) -> tuple[Int[np.ndarray, "batch history"], Int[np.ndarray, "batch history"]]:
        """The rows of the observations up to `row`, and those of the episode that are nearest."""
        seen = row[:, None] + self._past
        return seen, np.maximum(seen, self.dataset.episodes.starts[self.dataset.episode_index[row], None])

    def _action_rows(
        self, row: Int[np.ndarray, " batch"]
    ) -> tuple[Int[np.ndarray, "batch steps"], Bool[np.ndarray, "batch steps"]]:
        """The dataset rows of the actions around `row`, those of the episode that are nearest, and where."""
        episodes, episode = self.dataset.episodes, self.dataset.episode_index[row]
        first = episodes.starts[episode, None]
        last = first + episodes.lengths[episode, None] - 1
        steps = row[:, None] + self._steps
        near = np.minimum(np.maximum(steps, first), last)
        return near, near != steps


def _check(dataset: Dataset, episodes: Sequence[int], history: int, horizon: int) -> None:
    if horizon < 1 or history < 1:
        name, value = ("horizon.train", horizon) if horizon < 1 else ("model.history", history)
        raise UserError(f"{name}={value} is not possible: a window has at least one step. Type {name}=1 or more.")
    wrong = [e for e in episodes if not 0 <= e < dataset.episodes.num]
    if wrong or not len(episodes):
        given = f"episode {wrong[0]}" if wrong else "no episodes"
        raise UserError(
            f"Windows of {given} were asked for; {dataset.root} has episodes 0..{dataset.episodes.num - 1}. Check the "
            "split (data.val_fraction, data.tasks), or delete the run's split manifest if the dataset changed."
        )
