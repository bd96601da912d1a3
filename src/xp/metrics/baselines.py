# pyright: strict
"""Baselines that look at nothing, which any model has to beat. All give [N, H, A] in dataset units.

- zero: every action 0 in dataset units (stand still, where actions are relative).
- mean: the mean action of the training episodes (0 in normalised units), the best constant under squared error.
- hold-last: the action commanded just before the window, repeated. It sees only the past, so it could be deployed.
  The first window of an episode has no action before it; taking the window's own first action there would look at the
  answer. Two things are known without it: the mean action and the robot's state. `first_frame_rule` chooses between
  them on the training episodes alone (the state wins where actions are joint targets, the mean where they are steps).
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from xp.array_types import Floats, Ints
from xp.metrics.actions import FeatureStatistics

FirstFrameRule = Literal["state", "mean"]
Chunks = Float[Floats, "windows horizon action"]


def zero_action(num: int, horizon: int, action_dim: int) -> Chunks:
    """Zeros [N, H, A]."""
    return np.zeros((num, horizon, action_dim), dtype=np.float32)


def mean_action(num: int, horizon: int, statistics: FeatureStatistics) -> Chunks:
    """The training mean at every step [N, H, A]; `statistics` is the `action` entry of the dataset statistics."""
    mean = np.asarray(statistics["mean"], dtype=np.float32)
    return np.broadcast_to(mean, (num, horizon, mean.shape[-1])).copy()


def hold_last(held: Float[Floats, "windows action"], horizon: int) -> Chunks:
    """The held action [N, A] (from `held_actions`) at every step [N, H, A]."""
    held = np.asarray(held, dtype=np.float32)
    return np.repeat(held[:, None, :], horizon, axis=1)


def held_actions(
    action: Float[Floats, "rows action"],
    frame_index: Int[Ints, " rows"],
    starts: Int[Ints, " windows"],
    *,
    state: Float[Floats, "rows state"],
    mean: Float[Floats, " action"],
    rule: FirstFrameRule,
) -> Float[Floats, "windows action"]:
    """The action to hold in each window [N, A]: `action[start - 1]`, or `rule`'s stand-in at an episode's first frame.

    `action` [M, A], `state` [M, S] and `frame_index` [M] (0 at each episode's first frame) are whole dataset columns;
    `starts` [N] are the dataset rows of the windows' first step.
    """
    starts = np.asarray(starts)
    first = np.asarray(frame_index)[starts] == 0
    stand_in = np.asarray(state)[starts] if rule == "state" else np.broadcast_to(mean, (len(starts), len(mean)))
    before = np.asarray(action)[np.maximum(starts - 1, 0)]
    return np.where(first[:, None], stand_in, before).astype(np.float32)


def first_frame_rule(
    first_states: Float[Floats, "episodes state"],
    first_actions: Float[Floats, "episodes action"],
    mean: Float[Floats, " action"],
) -> FirstFrameRule:
    """Which is nearer to the first action of the TRAINING episodes [E, A]: their states [E, S] or the mean action [A].

    States and actions of different size live in different spaces: then the mean.
    """
    if np.shape(first_states) != np.shape(first_actions) or not len(first_actions):
        return "mean"
    from_state = np.abs(np.asarray(first_states, dtype=np.float64) - first_actions).mean()
    from_mean = np.abs(np.asarray(mean, dtype=np.float64) - first_actions).mean()
    return "state" if from_state < from_mean else "mean"
