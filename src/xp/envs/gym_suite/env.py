"""A gymnasium env with the protocol of `xp.envs.suite.Env`."""

from collections.abc import Mapping

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, Float64

from xp.envs.gym_suite.registered import Asked, Found, Raw, find, make_registered, numbers, picture
from xp.envs.suite import Observation, StepResult, refuse_unknown_camera
from xp.errors import UserError, join_names
from xp.pictures import resize

SUCCESS_KEYS = ("is_success", "success")
"""Where LeRobot's conventions say in a step's info that the task is solved."""


class GymnasiumEnv:
    """A registered env as one task of a suite.

    Pictures are the env's own; where another size is asked for they are resized as in training (`xp.pictures`).

    Args:
        asked: the env and its arguments.
        task: the task's name.
        cameras: camera name to (height, width).
        language: the instruction; None as the env says it.
        max_steps: length limit of an episode; None is the env's own.
        environment_state: whether observations hold the env's `environment_state`.
        success: what counts: `info` (`is_success` or `success` in a step's info), or `terminated` (the episode's end).

    Raises:
        UserError: as `find`; a camera that there is not; or an episode without an end.
    """

    def __init__(
        self,
        asked: Asked,
        task: str,
        *,
        cameras: Mapping[str, tuple[int, int]],
        language: str | None = None,
        max_steps: int | None = None,
        environment_state: bool = False,
        success: str = "info",
    ):
        self.found: Found = find(asked)
        limit = max_steps or self.found.max_steps
        if limit is None:
            raise UserError(
                f"env.id={asked.id} has no limit of an episode's steps (max_episode_steps). Give one, e.g. "
                "env.max_steps=300"
            )
        self.task, self.language = task, language or self.found.language
        self.cameras, self.max_steps, self.steps = dict(cameras), limit, 0
        self.fps = round(self.found.fps)
        self._refuse_cameras(cameras)
        self._asked, self._success, self._environment_state = asked, success, environment_state
        self._env: gymnasium.Env = make_registered(asked, limit)
        assert isinstance(self._env.action_space, spaces.Box), "found so"
        self._space = self._env.action_space

    def _refuse_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        for camera in cameras:
            refuse_unknown_camera(camera, list(self.found.cameras), self.found.cameras)

    @property
    def action_low(self) -> Float32[np.ndarray, " action"]:
        """Least value of each action dimension [A]."""
        return self._space.low.astype(np.float32)

    @property
    def action_high(self) -> Float32[np.ndarray, " action"]:
        """Largest value of each action dimension [A]."""
        return self._space.high.astype(np.float32)

    def reset(self, seed: int) -> Observation:
        """Begin the episode of `seed` and give its first observation."""
        raw, _ = self._env.reset(seed=seed)
        self.steps = 0
        return self._seen(raw)

    def step(self, action: np.ndarray) -> StepResult:
        """Act for one control step with `action` [A] (clipped to the action space).

        Raises:
            UserError: the action has another shape or is not finite, or the env does not say whether it is solved.
        """
        command = np.clip(self._checked(action), self._space.low, self._space.high).astype(self._space.dtype)
        raw, reward, terminated, truncated, info = self._env.step(command)
        self.steps += 1
        solved = self._solved(bool(terminated), info)
        done = solved or bool(terminated) or bool(truncated) or self.steps >= self.max_steps
        return StepResult(self._seen(raw), solved, done, float(reward))

    def observe(self) -> Observation:
        """The present observation: what `reset` or `step` gave last."""
        return self._observation

    def _seen(self, raw: Raw) -> Observation:
        self._observation = self._look(raw)
        return self._observation

    def _look(self, raw: Raw) -> Observation:
        images = {
            f"observation.images.{name}": resize(picture(raw, name), *size) for name, size in self.cameras.items()
        }
        return {**images, **self._vectors(raw)}

    def _vectors(self, raw: Raw) -> Observation:
        """All of an observation but its pictures."""
        knowledge = {}
        if self._environment_state:
            width = self.found.environment_dim
            knowledge = {"observation.environment_state": numbers(raw, "environment_state", width)}
        state = numbers(raw, "agent_pos", self.found.state_dim)
        return {"observation.state": state, **knowledge, "task": self.language}

    def _solved(self, terminated: bool, info: Mapping[str, object]) -> bool:
        if self._success == "terminated":
            return terminated
        for key in SUCCESS_KEYS:
            if key in info:
                return bool(np.all(np.asarray(info[key])))
        raise UserError(
            f"env.id={self._asked.id} does not say in a step's info whether the task is solved: expected is "
            f"{' or '.join(SUCCESS_KEYS)}, found {join_names(info)}. If it ends an episode when it is solved, type "
            "env.success=terminated"
        )

    def _checked(self, action: np.ndarray) -> Float64[np.ndarray, " action"]:
        values = np.asarray(action, np.float64)
        if values.shape != self._space.shape or not np.isfinite(values).all():
            raise UserError(
                f"{self._asked.id} takes {self._space.shape[0]} finite numbers but was given {values.tolist()} of "
                f"shape {values.shape}: check the policy's action_dim and that its weights hold no NaN."
            )
        return values
