"""Negative controls: a policy that asks a position-controlled robot to stay where it is, and one that says nothing."""

from collections.abc import Mapping, Sequence

import numpy as np

from xp.envs.suite import Window


class Noop:
    """Asks the robot to stay where it is: the last observed state [.., S] as every action of a chunk of H.

    For suites whose actions are places to be in the state's own units (S = A).
    """

    def __init__(self, horizon: int = 1):
        self._horizon = horizon

    def __call__(self, batch: Window) -> np.ndarray:
        """Actions [B, H, A] of a batch with states [B, T, S = A]."""
        return np.repeat(np.asarray(batch["observation.state"])[:, -1:], self._horizon, axis=1)


class Constant:
    """Gives one action [A] at every step, in chunks of `horizon`: zeros, where actions are differences or forces."""

    def __init__(self, action: Sequence[float], horizon: int = 1):
        self._chunk = np.tile(np.array(action, np.float32), (horizon, 1))

    def __call__(self, batch: Window) -> np.ndarray:
        """Actions [B, H, A] of a batch with states [B, T, S]."""
        return np.repeat(self._chunk[None], len(batch["observation.state"]), axis=0)


class StandStill:
    """Asks for no movement, where actions are differences but for some numbers that say where to be, as a gripper's.

    Args:
        width: numbers of an action (A).
        held: {number of an action that says where to be: the number of the state that it is held at}; all others are 0.
        horizon: actions in a chunk.
    """

    def __init__(self, width: int, held: Mapping[int, int], horizon: int = 1):
        self._width, self._held, self._horizon = width, dict(held), horizon

    def __call__(self, batch: Window) -> np.ndarray:
        """Actions [B, H, A] of a batch with states [B, T, S]."""
        state = np.asarray(batch["observation.state"])[:, -1:]
        action = np.zeros((len(state), 1, self._width), np.float32)
        for number, place in self._held.items():
            action[..., number] = state[..., place]
        return np.repeat(action, self._horizon, axis=1)
