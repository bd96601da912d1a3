"""Windows of trajectories as the network's inputs: what stood before a history's first step is left out. Pure numpy.

A window has T = context + 1 observed steps and the actions, rewards and step numbers of the same steps. A token is made
of an observation and of the action and reward of the step before, so the first step only gives these. Tokens whose
past is unknown (before a history's beginning) are left out, the others moved to the left: attention is causal and its
biases are relative, so what stands to the right of a row's own tokens changes none of them, and no mask is needed.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xp.errors import UserError, join_names
from xp.models.observation import STATE
from xp.models.policy import Batch
from xp.models.vintix.tasks import Tasks

NEEDED = ("action", "reward", "step")


class VintixInputs:
    """Reads batches for a network of these tasks and widths."""

    def __init__(self, tasks: Tasks, state_dim: int, action_dim: int, group_names: Sequence[str] = ()) -> None:
        """`group_names`: of the dataset in training, by the `group_index` of its batches."""
        self.tasks, self.state_dim, self.action_dim = tasks, state_dim, action_dim
        self.group_names = tuple(group_names)

    def arrays(self, batch: Batch) -> dict[str, np.ndarray]:
        """The inputs of a batch of B windows with T = L + 1 steps.

        Returns:
            `observation` [B, L, S], `prev_action` [B, L, A], `prev_reward` [B, L] and `action` [B, L, A] (the target)
            float32, `step` [B, L], `count` [B] (tokens of each row, the first ones) and `task_number` [B] int64.

        Raises:
            UserError: a batch without actions, rewards or step numbers, of other widths, or of an unknown task.
        """
        state = self._state(batch)
        action, reward, step = self._past(batch, state.shape)
        is_pad = np.asarray(batch.get("action_is_pad", np.zeros(step.shape, bool)), bool)
        unknown = is_pad[:, 1:] | (is_pad[:, :-1] & (step[:, 1:] != 0))
        left_out = np.where(unknown.all(1), unknown.shape[1], np.argmin(unknown, axis=1))
        order = (np.arange(unknown.shape[1]) + left_out[:, None]) % unknown.shape[1]

        def moved(values: np.ndarray) -> np.ndarray:
            return np.take_along_axis(values, order.reshape(*order.shape, *(1,) * (values.ndim - 2)), axis=1)

        return {
            "observation": moved(widened(state[:, 1:], self.state_dim)),
            "prev_action": moved(widened(action[:, :-1], self.action_dim)),
            "prev_reward": moved(reward[:, :-1]),
            "action": moved(widened(action[:, 1:], self.action_dim)),
            "step": moved(step[:, 1:]),
            "count": unknown.shape[1] - left_out,
            "task_number": self._tasks(batch, len(state)),
        }

    def _state(self, batch: Batch) -> np.ndarray:
        if STATE not in batch:
            raise UserError(f"A Vintix policy reads {STATE}; the batch has {join_names(batch)}.")
        state = np.asarray(batch[STATE], np.float32)
        if state.ndim != 3 or state.shape[1] < 2:
            raise UserError(
                f"{STATE} has shape {state.shape}: expected [B, T, S] with T of at least 2, since Vintix acts by its "
                "history. Step by step it is asked through xp.models.vintix.rollout.Rollout."
            )
        return state

    def _past(self, batch: Batch, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions, rewards and step numbers at the observed steps."""
        for key in NEEDED:
            if key not in batch:
                raise UserError(
                    f"A Vintix policy learns and acts by the actions and rewards of its history, and the batch has no "
                    f"'{key}' (it has: {join_names(batch)}). Give trajectories with rewards: data.root=FOLDER of the "
                    "format vintix. Step by step it is asked through xp.models.vintix.rollout.Rollout."
                )
        kinds = {"action": np.float32, "reward": np.float32, "step": np.int64}
        found = {key: np.asarray(batch[key], kind) for key, kind in kinds.items()}
        for key, values in found.items():
            if values.shape[:2] != shape[:2]:
                raise UserError(
                    f"'{key}' has shape {values.shape} and {STATE} {shape}: expected the same rows and steps of both."
                )
        return found["action"], found["reward"], found["step"]

    def _tasks(self, batch: Batch, rows: int) -> np.ndarray:
        index, names = batch.get("group_index"), batch.get("task")
        if self.group_names and index is not None:
            chosen = [self.group_names[number] for number in np.asarray(index, np.int64)]
        elif len(self.group_names) == 1:
            chosen = [self.group_names[0]] * rows
        elif isinstance(names, Sequence) and not isinstance(names, str):
            chosen = [str(name) for name in names]
        else:
            chosen = [str(names if names is not None else "")] * rows
        numbers: Mapping[str, int] = {name: self.tasks.number(name) for name in dict.fromkeys(chosen)}
        return np.array([numbers[name] for name in chosen], np.int64)


def widened(values: np.ndarray, width: int) -> np.ndarray:
    """[B, L, D] as [B, L, width]: zeros beyond, or without what is beyond every group of the network."""
    if values.shape[-1] >= width:
        return values[..., :width]
    return np.pad(values, ((0, 0), (0, 0), (0, width - values.shape[-1])))
