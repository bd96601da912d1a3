"""Recording an episode for a dataset: what was seen, and the command issued, or meant, on seeing it.

An expert with noise on its actions visits states beside its own path. Recorded with the actions that it meant, it
shows how to come back from there (Laskey et al., "DART: Noise Injection for Robust Imitation Learning", CoRL 2017,
section 4); recorded with those that were executed, the labels have the noise too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from xp.envs.suite import Actor, Env, NoisyActor, Observation
from xp.errors import UserError

_NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One recorded episode of N control steps.

    `images` camera to [N, h, w, 3] uint8; `state` [N, S] and `action` [N, A] float32, `action[t]` being the command
    issued (or meant) when `state[t]` and `images[..][t]` were seen (LeRobot's convention); `task` is the instruction.
    `environment_state` [N, E] float32 where the env gives it, else [N, 0]. `max_reward` is the largest reward of a
    step; None where the suite has no rewards.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    environment_state: np.ndarray
    action: np.ndarray
    success: bool
    task: str
    seed: int
    max_reward: float | None = None


class Recorder:
    """Notes what is seen and which command is issued on it, for an `Episode` of one env."""

    def __init__(self, env: Env):
        self._env = env
        self._images: dict[str, list[np.ndarray]] = {camera: [] for camera in env.cameras}
        self._states: list[np.ndarray] = []
        self._surroundings: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []

    def note(self, observation: Observation, action: np.ndarray) -> None:
        """An observation and the action [A] issued on seeing it."""
        for camera, seen in self._images.items():
            seen.append(np.asarray(observation[f"observation.images.{camera}"]))
        self._states.append(np.asarray(observation["observation.state"]))
        self._surroundings.append(np.asarray(observation.get("observation.environment_state", _NOTHING)))
        self._actions.append(action)

    def episode(self, seed: int, *, success: bool, max_reward: float | None) -> Episode:
        """All that was noted."""
        return Episode(
            images={camera: np.stack(seen) for camera, seen in self._images.items()},
            state=np.stack(self._states),
            environment_state=np.stack(self._surroundings),
            action=np.stack(self._actions),
            success=success,
            task=self._env.language,
            seed=seed,
            max_reward=max_reward,
        )


def larger_reward(before: float | None, reward: float | None) -> float | None:
    """The larger of an episode's largest reward so far and that of a step; None where the suite has no rewards."""
    return before if reward is None else reward if before is None else max(before, reward)


def collect_episode(
    env: Env,
    actor: Actor,
    seed: int,
    *,
    on_step: Callable[[int, int], None] | None = None,
    label: str = "executed",
) -> Episode:
    """Record the episode of `seed`; `on_step` is called after each control step with (seed, step).

    `label` says which action is recorded: the one `executed`, or the one that the actor `intended`.

    Raises:
        UserError: `intended` of an actor that does not say what it meant.
    """
    told = actor if label == "intended" else None
    if told is not None and not isinstance(told, NoisyActor):
        raise UserError(
            f"collect.label=intended: the expert of {env.task} ({type(actor).__name__}) does not say what it meant "
            "without its noise. Type collect.label=executed."
        )
    observation = env.reset(seed)
    actor.reset(seed)
    record = Recorder(env)
    max_reward: float | None = None
    done = success = False
    while not done:
        action = np.asarray(actor.act(), np.float32)
        record.note(observation, action if told is None else told.intended)
        result = env.step(action)
        observation, done, success = result.observation, result.done, result.success
        max_reward = larger_reward(max_reward, result.reward)
        if on_step is not None:
            on_step(seed, env.steps)
    return record.episode(seed, success=success, max_reward=max_reward)
