"""LIBERO as a suite (`env.name=libero`). Light until `make`: neither MuJoCo nor the package is imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import ClassVar

from omegaconf import MISSING

from xp.config.schema import Env as EnvSchema
from xp.envs.libero.facts import (
    ACTION_NAMES,
    CAMERAS,
    DEFAULT_CAMERAS,
    FAILING_EXPERTS,
    FIRST_OFFICIAL,
    FPS,
    INSTRUCTIONS,
    MAX_NOISE,
    MAX_STEPS,
    MEGABYTES,
    OFFICIAL_STATES,
    RENDERINGS,
    STATE_NAMES,
    SUITES,
    WAIT_STEPS,
    base_suite,
)
from xp.envs.libero.resources import DISTRIBUTION, instructions, package_folder, refuse_unknown_suite
from xp.envs.suite import Actor, Env, Predict, refuse_unknown_camera, refuse_unknown_task
from xp.errors import UserError
from xp.json_types import JSONObject

LARGEST = 480
"""Pixels: the height of the buffer that LIBERO's scenes are drawn in."""


@dataclass
class LiberoSchema(EnvSchema):
    """Keys of the section `env` with `env.name=libero`."""

    suite: str = field(default=MISSING, metadata={"allowed": SUITES})
    wait_steps: int = field(default=WAIT_STEPS, metadata={"min": 0})
    rendering: str = field(default=MISSING, metadata={"allowed": RENDERINGS})
    instructions: str = field(default=MISSING, metadata={"allowed": INSTRUCTIONS})


@dataclass(frozen=True, kw_only=True)
class LiberoSuite:
    """One of LIBERO's suites, with the published protocol as default. `max_steps` None is the published limit.

    Raises:
        UserError: there is no such suite, or another control rate than the published one is asked for.
    """

    suite: str = "libero_object"
    fps: float = FPS
    max_steps: int | None = None
    wait_steps: int = WAIT_STEPS
    rendering: str = "published"
    instructions: str = "bddl"

    schema: ClassVar = LiberoSchema
    name: ClassVar = "libero"
    robot_type: ClassVar = "panda"
    camera_names: ClassVar = CAMERAS
    default_cameras: ClassVar = DEFAULT_CAMERAS
    state_names: ClassVar = STATE_NAMES
    action_names: ClassVar = ACTION_NAMES
    environment_state_names: ClassVar = ()
    num_initial_states: ClassVar = None
    env_megabytes: ClassVar = MEGABYTES
    max_expert_noise: ClassVar = MAX_NOISE
    failing_experts: ClassVar = FAILING_EXPERTS

    def __post_init__(self) -> None:
        refuse_unknown_suite(self.suite)
        if self.fps != FPS:
            raise UserError(
                f"env.fps={self.fps:g}: LIBERO's demonstrations and numbers are at {FPS} control steps a second. "
                f"Type env.fps={FPS}"
            )

    @property
    def tasks(self) -> Mapping[str, str]:
        """Task name to instruction, as the installed package has them."""
        return instructions(self.suite, self.instructions)

    def check(self, env: JSONObject) -> None:
        """Refuse camera sizes that cannot be drawn."""
        cameras = env["cameras"]
        assert isinstance(cameras, Mapping), "checked before a run"
        for name, size in cameras.items():
            assert isinstance(size, Sequence), "checked before a run"
            if not all(isinstance(side, int) and side <= LARGEST for side in size):
                raise UserError(
                    f"Camera '{name}' cannot be drawn at {list(size)} pixels: give [height, width], each at most "
                    f"{LARGEST}, e.g. env.cameras.{name}=[128,128]."
                )

    def refuse_seeds(self, first: int, count: int, keys: tuple[str, str]) -> None:
        """Refuse initial states beyond the official ones."""
        last = FIRST_OFFICIAL + OFFICIAL_STATES
        if first + count > last:
            raise UserError(
                f"{keys[0]}={first} {keys[1]}={count}: each task of LIBERO has {OFFICIAL_STATES} official initial "
                f"states ({FIRST_OFFICIAL} to {last - 1}); those below are drawn by the task's rules. Type "
                f"{keys[0]}={FIRST_OFFICIAL} {keys[1]}={OFFICIAL_STATES}"
            )

    def make(self, task: str, *, cameras: Mapping[str, tuple[int, int]], environment_state: bool = False) -> Env:
        """The simulation of a task."""
        refuse_unknown_task(task, self.tasks)
        for camera in cameras:
            refuse_unknown_camera(camera, self.camera_names, self.default_cameras)
        if environment_state:
            raise UserError("LIBERO gives no observation.environment_state. Type env.environment_state=false")
        from xp.envs.libero.env import LiberoEnv

        return LiberoEnv(
            self.suite,
            task,
            language=self.tasks[task],
            cameras=cameras,
            max_steps=MAX_STEPS[base_suite(self.suite)] if self.max_steps is None else self.max_steps,
            wait_steps=self.wait_steps,
            fast=self.rendering == "fast",
        )

    def expert(self, env: Env, *, noise: float = 0.0, seed: int = 0) -> Actor:
        """The scripted expert; `noise` is that of an action's six motion numbers."""
        from xp.envs.libero.env import LiberoEnv
        from xp.envs.libero.expert import CarryingExpert

        assert isinstance(env, LiberoEnv), "an env of another suite"
        return CarryingExpert(env, noise=noise, seed=seed)

    def failing_expert(self, env: Env, control: str) -> Actor:
        """The expert gone wrong in the way named by `control`."""
        from xp.envs.libero.controls import failing_expert
        from xp.envs.libero.env import LiberoEnv

        assert isinstance(env, LiberoEnv), "an env of another suite"
        assert control in FAILING_EXPERTS, control
        return failing_expert(env, control)

    def noop(self, horizon: int) -> Predict:
        """A policy that asks for no motion, with the gripper open."""
        from xp.envs.libero.controls import StandStill

        return StandStill(horizon)

    def provenance(self) -> dict[str, str]:
        """Versions of what simulates, and the protocol: published numbers move with MuJoCo's version."""
        package_folder()
        versions = {name: metadata.version(name) for name in ("mujoco", "robosuite", DISTRIBUTION)}
        chosen = {"suite": self.suite, "rendering": self.rendering, "instructions": self.instructions}
        return {**versions, **chosen, "wait_steps": str(self.wait_steps)}
