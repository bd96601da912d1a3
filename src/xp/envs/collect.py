"""Recording an episode for a dataset: what was seen, and the command issued on seeing it."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from xp.envs.arm_env import ArmEnv
from xp.envs.expert import ScriptedExpert


class Actor(Protocol):
    """What acts in an env: the scripted expert, or anything with these two methods."""

    def reset(self, episode: int) -> None:
        """Begin the episode that the env was just reset to."""
        ...

    def act(self) -> np.ndarray:
        """The next action [6] float32."""
        ...


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One recorded episode of N control steps.

    `images` camera to [N, h, w, 3] uint8; `state` and `action` [N, 6] float32, `action[t]` being the command issued
    when `state[t]` and `images[..][t]` were seen (LeRobot's convention); `task` is the instruction.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    success: bool
    task: str
    seed: int

    def without_images(self) -> "Episode":
        """The same episode less its pictures (which are nearly all of its memory)."""
        return replace(self, images={})


def collect_episode(
    env: ArmEnv, actor: Actor, seed: int, *, on_step: Callable[[int, int], None] | None = None
) -> Episode:
    """Record the episode of `seed`; `on_step` is called after each control step with (seed, step)."""
    observation = env.reset(seed)
    actor.reset(seed)
    images: dict[str, list[np.ndarray]] = {camera: [] for camera in env.cameras}
    states, actions = [], []
    done = success = False
    while not done:
        action = np.asarray(actor.act(), np.float32)
        for camera, seen in images.items():
            seen.append(observation[f"observation.images.{camera}"])
        states.append(observation["observation.state"])
        actions.append(action)
        result = env.step(action)
        observation, done, success = result.observation, result.done, result.success
        if on_step is not None:
            on_step(seed, env.steps)
    return Episode(
        images={camera: np.stack(seen) for camera, seen in images.items()},
        state=np.stack(states),
        action=np.stack(actions),
        success=success,
        task=env.info.language,
        seed=seed,
    )


class Recorder:
    """Records expert episodes by (task, seed); can be sent to other processes, each of which keeps its own envs.

    Args:
        options: keyword arguments of `ArmEnv` (cameras, renderer, fps, max_steps).
        noise: of the expert's commands, radians.
        seed: of that noise.
    """

    def __init__(self, options: Mapping[str, Any], *, noise: float = 0.0, seed: int = 0):
        self._noise, self._seed = noise, seed
        rest = {key: value for key, value in options.items() if key != "cameras"}
        cameras = tuple((name, tuple(size)) for name, size in options["cameras"].items())
        self._options = (cameras, tuple(sorted(rest.items())))

    def __call__(self, task: str, seed: int) -> Episode:
        """The expert's episode of `task` for `seed`: the same in whichever process it is recorded."""
        env = _env(task, *self._options)
        return collect_episode(env, ScriptedExpert(env, noise=self._noise, seed=self._seed), seed)


@functools.lru_cache(maxsize=8)
def _env(task: str, cameras: tuple[Any, ...], options: tuple[Any, ...]) -> ArmEnv:
    """This process's env of `task` (making one costs some hundred times a step)."""
    return ArmEnv(task, cameras=dict(cameras), **dict(options))
