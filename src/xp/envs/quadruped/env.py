"""One walk of one robot, as the suites' protocol has it: a simulation of one."""

from collections.abc import Mapping
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float32, UInt8

from xp.envs.lazy import LazyObservation
from xp.envs.mujoco_import import mujoco
from xp.envs.mujoco_types import MjData
from xp.envs.quadruped.model import CAMERA, FLOOR
from xp.envs.quadruped.robot import JOINTS
from xp.envs.quadruped.scene import Scene, scene_of
from xp.envs.quadruped.settings import ENVIRONMENT_STATE_NAMES, STATE_NAMES, Settings
from xp.envs.quadruped.simulation import Simulation
from xp.envs.raycast import RayCaster
from xp.envs.suite import Observation, StepResult
from xp.errors import UserError


class QuadrupedEnv:
    """A robot that shall walk by the command.

    An observation has `observation.state` [33] float32 (`STATE_NAMES`), `task`, the picture of the camera `side` where
    it is asked for, and on request `observation.environment_state` [4] float32. An action [12] moves the targets of the
    joints' servos away from the default pose, in units of `action_scale` radians; it is executed one step later.
    An episode is done when the robot tilts too far, or at the step limit; it is a success if it gets there with
    `success_share` of the largest return.
    """

    state_names = STATE_NAMES
    action_names = JOINTS
    environment_state_names = ENVIRONMENT_STATE_NAMES

    def __init__(
        self,
        task: str,
        language: str,
        settings: Settings,
        *,
        cameras: Mapping[str, tuple[int, int]],
        environment_state: bool = False,
    ) -> None:
        self.task, self.language, self.settings = task, language, settings
        self.cameras = dict(cameras)
        self.fps, self.max_steps = settings.fps, settings.max_steps
        self.action_low = np.full(12, -settings.action_limit, np.float32)
        self.action_high = -self.action_low
        self.simulation = Simulation(settings, 1)
        self._environment_state = environment_state
        self.collected = 0.0
        """The rewards of this episode so far."""

    @property
    def steps(self) -> int:
        """Control steps since the last reset."""
        return int(self.simulation.steps[0])

    def reset(self, seed: int) -> Observation:
        """Begin the episode of `seed`."""
        self._state = self.simulation.reset([seed])[0]
        self.collected = 0.0
        return self._look()

    def step(self, action: np.ndarray) -> StepResult:
        """Act for one control step with `action` [12].

        Raises:
            UserError: the action has another shape or is not finite.
        """
        given = np.asarray(action)
        if given.shape != (12,) or not np.isfinite(given).all():
            raise UserError(
                f"A quadruped takes 12 finite numbers, the targets of its joints, but was given {given.tolist()} of "
                f"shape {given.shape}: check the policy's action_dim and that its weights hold no NaN."
            )
        walked = self.simulation.step(given[None])
        self._state = walked.observation[0]
        reward, fell = float(walked.reward[0]), bool(walked.ended[0])
        self.collected += reward
        at_end = self.steps >= self.max_steps
        enough = self.collected >= self.settings.success_share * self.settings.largest_return
        return StepResult(self._look(), at_end and not fell and enough, fell or at_end, reward)

    def observe(self) -> Observation:
        """What `reset` or `step` gave last."""
        return self._observation

    def _look(self) -> Observation:
        state = self.simulation.states[0].copy()
        draw = {f"observation.images.{name}": partial(self._drawn, name, state) for name in self.cameras}
        known: dict[str, np.ndarray | str] = {"observation.state": self._state}
        if self._environment_state:
            known["observation.environment_state"] = self._motion()
        self._observation = LazyObservation({**known, "task": self.language}, draw)
        return self._observation

    def _motion(self) -> Float32[np.ndarray, "4"]:
        return self.simulation.motion()[0].astype(np.float32)

    @cached_property
    def _pictured(self) -> Scene:
        """The scene with all that is seen."""
        return self.simulation.scene if self.settings.description is None else scene_of(self.settings, pictures=True)

    @cached_property
    def _renderer(self) -> RayCaster:
        return RayCaster(self._pictured.model, self.cameras, table=FLOOR)

    @cached_property
    def _posed(self) -> MjData:
        return mujoco.MjData(self._pictured.model)

    def _drawn(self, camera: str, state: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
        """The picture of a state, brought back to the middle of the floor by whole tiles of its pattern."""
        assert camera == CAMERA, camera
        period = 2 * FLOOR.tile
        position = self._pictured.to_model(state[None])[0, 1:20]
        self._posed.qpos[:] = position
        self._posed.qpos[:2] -= np.round(position[:2] / period) * period
        mujoco.mj_fwdPosition(self._pictured.model, self._posed)
        mujoco.mj_camlight(self._pictured.model, self._posed)
        return self._renderer.render(self._posed, camera)
