"""Recording an episode for a dataset: what was seen, and the command issued on seeing it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from xp.envs.suite import Actor, Env


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One recorded episode of N control steps.

    `images` camera to [N, h, w, 3] uint8; `state` [N, S] and `action` [N, A] float32, `action[t]` being the command
    issued when `state[t]` and `images[..][t]` were seen (LeRobot's convention); `task` is the instruction.
    `environment_state` [N, E] float32 where the env gives it, else [N, 0].
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    environment_state: np.ndarray
    action: np.ndarray
    success: bool
    task: str
    seed: int


def collect_episode(env: Env, actor: Actor, seed: int, *, on_step: Callable[[int, int], None] | None = None) -> Episode:
    """Record the episode of `seed`; `on_step` is called after each control step with (seed, step)."""
    observation = env.reset(seed)
    actor.reset(seed)
    images: dict[str, list[np.ndarray]] = {camera: [] for camera in env.cameras}
    states, surroundings, actions = [], [], []
    nothing = np.zeros(0, np.float32)
    done = success = False
    while not done:
        action = np.asarray(actor.act(), np.float32)
        for camera, seen in images.items():
            seen.append(observation[f"observation.images.{camera}"])
        states.append(observation["observation.state"])
        surroundings.append(observation.get("observation.environment_state", nothing))
        actions.append(action)
        result = env.step(action)
        observation, done, success = result.observation, result.done, result.success
        if on_step is not None:
            on_step(seed, env.steps)
    return Episode(
        images={camera: np.stack(seen) for camera, seen in images.items()},
        state=np.stack(states),
        environment_state=np.stack(surroundings),
        action=np.stack(actions),
        success=success,
        task=env.language,
        seed=seed,
    )
