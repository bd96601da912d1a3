"""The environment: reset to a seed's layout, step with an action, say whether the task is done."""

from collections.abc import Mapping
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from xp.envs.arm.actions import ActionSpace, action_space
from xp.envs.arm.arm import FINGER_TRAVEL
from xp.envs.arm.initial import InitialState, initial_state
from xp.envs.arm.joints import NAMES
from xp.envs.arm.options import (
    ENVIRONMENT_STATE_NAMES,
    LIMIT_SECONDS,
    PHYSICS_HZ,
    RENDERERS,
    checked_cameras,
    checked_fps,
)
from xp.envs.arm.scene import CUBE_SIDE, TABLE, build_model
from xp.envs.arm.tasks import CUBES, task_info
from xp.envs.lazy import LazyObservation
from xp.envs.mujoco_import import mujoco
from xp.envs.mujoco_types import MjData, MjModel
from xp.envs.suite import Observation, StepResult
from xp.errors import UserError, did_you_mean, join_names

DWELL_SECONDS = 0.4
"""How long the cube must lie where it should, untouched and still, before the task counts as done."""
ON_TARGET = 0.025
"""Largest distance of the cube's centre from the target's, metres (the target's radius is a little larger)."""
ON_CUBE = 0.015
"""Largest sideways distance of the upper cube's centre from the lower one's: half a side, where it would topple."""
STILL_SPEED = 0.02
LIFTED = 0.008
"""A pushed cube whose centre rises this far above its resting height has been lifted, metres."""


@runtime_checkable
class Renderer(Protocol):
    """What draws a camera: the ray caster or MuJoCo's GL renderer."""

    def render(self, data: MjData, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """The image [h, w, 3] uint8."""
        ...


class ArmEnv:
    """One task of the suite.

    An observation has LeRobot's keys, unbatched: `observation.images.<camera>` [h, w, 3] uint8, `observation.state`
    [6] float32 (five joint angles in radians, gripper opening 0..1) and `task`; on request also
    `observation.environment_state` [12] float32, where the cubes and the target are. An action says where each of the
    six shall be one control period later, or how the hand shall move (`xp.envs.arm.actions`); the servos' targets move
    there in a straight line.

    Args:
        task: name of a task (`xp.envs.arm.tasks.TASKS`).
        cameras: camera name (top, oblique, wrist) to (height, width); an empty mapping gives states only.
        renderer: `raycast` (any machine) or `gl` (needs a working EGL or OSMesa).
        fps: control steps a second; must divide the physics rate of 300 Hz.
        max_steps: length limit of an episode; default ten seconds.
        environment_state: whether observations hold the simulator's own knowledge of cubes and target.
        action: what an action means: `joints` [6] or `ee_delta` [7].

    Raises:
        UserError: an unknown task, camera, renderer, size or kind of action, or an fps that does not divide 300.
    """

    state_names = NAMES
    environment_state_names = ENVIRONMENT_STATE_NAMES

    def __init__(
        self,
        task: str,
        *,
        cameras: Mapping[str, tuple[int, int]],
        renderer: str = "raycast",
        fps: float = 10,
        max_steps: int | None = None,
        environment_state: bool = False,
        action: str = "joints",
    ):
        self.info = task_info(task)
        self.action_space: ActionSpace = action_space(action)
        self.task = task
        self.cameras = checked_cameras(cameras)
        self.fps = checked_fps(fps)
        self._environment_state = bool(environment_state)
        self.max_steps = round(LIMIT_SECONDS * fps) if max_steps is None else int(max_steps)
        self.model: MjModel = build_model(1.0 / PHYSICS_HZ)
        self.data: MjData = mujoco.MjData(self.model)
        self._renderer = _make_renderer(renderer, self.model, self.cameras)
        self._substeps = PHYSICS_HZ // self.fps
        self._dwell_steps = max(1, round(DWELL_SECONDS * fps))
        self._address = {name: int(self.model.joint(name).qposadr[0]) for name in CUBES}
        self._velocity = {name: int(self.model.joint(name).dofadr[0]) for name in CUBES}
        self._body = {name: self.model.body(name).id for name in ("left", "right", "hand", *CUBES)}
        self.initial: InitialState | None = None
        self._past: MjData | None = None
        self.steps = 0

    @property
    def language(self) -> str:
        """The task's instruction."""
        return self.info.language

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A numbers of an action."""
        return self.action_space.names

    @property
    def action_low(self) -> Float[np.ndarray, " action"]:
        """Least value of each number of an action [A]."""
        return self.action_space.low

    @property
    def action_high(self) -> Float[np.ndarray, " action"]:
        """Largest value of each number of an action [A]."""
        return self.action_space.high

    def reset(self, seed: int) -> Observation:
        """Begin the episode of `seed` and give its first observation; a pure function of (task, seed)."""
        self.initial = initial_state(self.task, seed)
        mujoco.mj_resetData(self.model, self.data)
        start = np.array(self.initial.joints)
        self.data.qpos[:5] = start[:5]
        self.data.qpos[5:7] = start[5] * FINGER_TRAVEL
        for name in CUBES:
            x, y, yaw = self.initial.cube(name)
            pose = [x, y, CUBE_SIDE / 2, np.round(np.cos(yaw / 2), 9), 0, 0, np.round(np.sin(yaw / 2), 9)]
            self.data.qpos[self._address[name] : self._address[name] + 7] = pose
        self.data.mocap_pos[0] = [*self.initial.target, 0.0008]
        self._command = start
        self.data.ctrl[:] = _controls(start)
        self.steps = 0
        self._dwelt = 0
        self._highest = CUBE_SIDE / 2
        mujoco.mj_forward(self.model, self.data)
        return self._look()

    def step(self, action: np.ndarray) -> StepResult:
        """Move the six targets over one control period as `action` [A] says (clipped to its range).

        Raises:
            UserError: the action has another shape or holds a NaN or an infinity.
        """
        assert self.initial is not None, "an env is reset before its first step"
        begin = self._command
        goal = self.action_space.command(begin, _checked_action(action, self.action_names))
        for part in range(1, self._substeps + 1):
            self.data.ctrl[:] = _controls(begin + (goal - begin) * (part / self._substeps))
            mujoco.mj_step(self.model, self.data)
        self._command = goal
        mujoco.mj_forward(self.model, self.data)
        self.steps += 1
        self._highest = max(self._highest, float(self.cube_pose(self.info.cube)[2]))
        self._dwelt = self._dwelt + 1 if self._settled() else 0
        success = self._dwelt >= self._dwell_steps
        return StepResult(self._look(), success, success or self.steps >= self.max_steps)

    def observe(self) -> Observation:
        """The present observation: what `reset` or `step` gave last. A picture is drawn when it is looked at."""
        return self._observation

    def _look(self) -> Observation:
        self._moment = moment = (self.data.qpos.copy(), self.data.mocap_pos.copy())
        draw = {f"observation.images.{name}": partial(self._drawn, name, moment) for name in self.cameras}
        knowledge = {"observation.environment_state": self.environment_state()} if self._environment_state else {}
        known = {"observation.state": self.state(), **knowledge, "task": self.info.language}
        self._observation = LazyObservation(known, draw)
        return self._observation

    def _drawn(self, camera: str, moment: tuple[np.ndarray, np.ndarray]) -> UInt8[np.ndarray, "height width 3"]:
        """What a camera sees at a moment (`qpos`, `mocap_pos`), though the episode may have gone on since."""
        if moment is self._moment:
            return self._renderer.render(self.data, camera)
        past: MjData = mujoco.MjData(self.model) if self._past is None else self._past
        self._past = past
        past.qpos[:], past.mocap_pos[:] = moment
        mujoco.mj_fwdPosition(self.model, past)
        return self._renderer.render(past, camera)

    def state(self) -> Float32[np.ndarray, "6"]:
        """Joint angles and gripper opening [6] float32."""
        opening = (self.data.qpos[5] + self.data.qpos[6]) / (2 * FINGER_TRAVEL)
        return np.append(self.data.qpos[:5], opening).astype(np.float32)

    def environment_state(self) -> Float32[np.ndarray, "12"]:
        """Poses of the cubes and the target's centre [12] float32, as `environment_state_names` says."""
        poses = (self.cube_pose(name) for name in CUBES)
        numbers = [(x, y, z, np.cos(yaw), np.sin(yaw)) for x, y, z, yaw in poses]
        return np.concatenate([*numbers, self.target]).astype(np.float32)

    @property
    def command(self) -> Float[np.ndarray, "6"]:
        """Where the six servo targets stand now [6]: where the last action put them."""
        return self._command.copy()

    def cube_pose(self, name: str) -> Float[np.ndarray, "4"]:
        """Position [3] in metres and yaw in radians of a cube, as one array [4]."""
        pose = self.data.qpos[self._address[name] : self._address[name] + 7]
        w, x, y, z = pose[3:]
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        return np.append(pose[:3], yaw)

    @property
    def target(self) -> Float[np.ndarray, "2"]:
        """Centre [2] of the target on the table, metres."""
        return np.array(self.data.mocap_pos[0][:2])

    def touched(self, cube: str) -> bool:
        """Whether the gripper touches the cube."""
        gripper = {self._body["left"], self._body["right"], self._body["hand"]}
        bodies = self.model.geom_bodyid[self.data.contact.geom]
        return any(self._body[cube] in pair and not gripper.isdisjoint(pair) for pair in bodies.tolist())

    def _settled(self) -> bool:
        """Whether the cube now lies where the task wants it, untouched and still."""
        cube = self.info.cube
        place = self.cube_pose(cube)
        if self.info.skill == "stack":
            below = self.cube_pose(self.info.other)
            there = np.hypot(*(place[:2] - below[:2])) <= ON_CUBE and abs(place[2] - below[2] - CUBE_SIDE) < 0.004
        else:
            there = np.hypot(*(place[:2] - self.target)) <= ON_TARGET and abs(place[2] - CUBE_SIDE / 2) < 0.004
        if self.info.skill == "push" and self._highest > CUBE_SIDE / 2 + LIFTED:
            return False
        speed = np.linalg.norm(self.data.qvel[self._velocity[cube] : self._velocity[cube] + 3])
        return bool(there and speed < STILL_SPEED and not self.touched(cube))


def _controls(command: Float[np.ndarray, "6"]) -> Float[np.ndarray, "7"]:
    """The seven servo targets [7] of a command [6]: both fingers get the gripper's."""
    return np.append(command, command[5])


def _checked_action(action: np.ndarray, names: tuple[str, ...]) -> Float64[np.ndarray, " action"]:
    values = np.asarray(action, np.float64)
    if values.shape != (len(names),) or not np.isfinite(values).all():
        raise UserError(
            f"The arm takes {len(names)} finite numbers ({join_names(names)}) but was given "
            f"{np.asarray(action).tolist()} "
            f"of shape {values.shape}: check the policy's action_dim and that its weights hold no NaN."
        )
    return values


def _make_renderer(kind: str, model: MjModel, cameras: Mapping[str, tuple[int, int]]) -> Renderer:
    if kind == "raycast":
        from xp.envs.raycast import RayCaster

        return RayCaster(model, cameras, table=TABLE)
    if kind == "gl":
        from xp.envs.gl import GlRenderer

        return GlRenderer(model, cameras, instead=", or use env.renderer=raycast, which needs none")
    raise UserError(
        f"There is no renderer '{kind}'{did_you_mean(kind, RENDERERS)}. "
        "Give env.renderer=raycast (any machine) or env.renderer=gl (needs EGL or OSMesa)."
    )
