"""Quadrupeds as a suite (`env.name=quadruped`; env=go1, go2, a1, minicheetah choose a robot). Light until `make`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from xp.config.schema import Env as EnvSchema
from xp.envs.quadruped.description import PACKAGES, description_of, mjcf_path
from xp.envs.quadruped.robot import JOINTS, robot_of
from xp.envs.quadruped.settings import (
    ENVIRONMENT_STATE_NAMES,
    SECONDS,
    STATE_NAMES,
    Settings,
    command_of,
    randomisation_of,
    reward_of,
)
from xp.envs.suite import Actor, Env, Predict, refuse_unknown_camera, refuse_unknown_task
from xp.errors import UserError
from xp.foreign.mjcf import read_mjcf
from xp.json_types import JSONObject

if TYPE_CHECKING:
    from xp.envs.batch import BatchActor, BatchEnv
    from xp.envs.quadruped.gait import Gait

PHYSICS_HZ = 100
CONVENTIONS = ("canonical", "own")
MAX_NOISE = 0.5
"""Standard deviation of noise on the expert's actions; docs/suites.md has its return without."""
FAILING = ("backwards", "on_the_spot")


@dataclass
class QuadrupedSchema(EnvSchema):
    """Keys of the section `env` with `env.name=quadruped`."""

    robot: Any = MISSING
    gait: Any = MISSING
    convention: str = field(default=MISSING, metadata={"allowed": CONVENTIONS})
    command: list[float] = MISSING
    action_scale: float = field(default=MISSING, metadata={"min": 1e-3, "max": 10.0})
    action_limit: float = field(default=MISSING, metadata={"min": 1e-3, "max": 1e6})
    latency: int = field(default=MISSING, metadata={"min": 0, "max": 1})
    reward: Any = MISSING
    most_tilt: float = field(default=MISSING, metadata={"min": 1.0, "max": 90.0})
    success_share: float = field(default=MISSING, metadata={"min": 0.0, "max": 1.0})
    initial_noise: float = field(default=MISSING, metadata={"min": 0.0, "max": 0.5})
    randomisation: Any = MISSING
    mjcf: str | None = None
    mjcf_joints: Any = MISSING


class _Frozen(dict[str, object]):
    """A section that is compared by what it holds and never changed: suites are keys of caches."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(repr(sorted(self.items(), key=str)))


@dataclass(frozen=True, kw_only=True)
class QuadrupedSuite:
    """A quadruped that walks. `max_steps` None is twenty seconds.

    Raises:
        UserError: no robot, numbers that cannot be, or an fps that does not divide the rate of the physics.
    """

    robot: Any
    gait: Any
    convention: str
    command: Any
    action_scale: float
    action_limit: float
    latency: int
    reward: Any
    most_tilt: float
    success_share: float
    initial_noise: float
    randomisation: Any
    mjcf: str | None = None
    mjcf_joints: Any = field(default_factory=dict)
    fps: float = 50
    max_steps: int | None = None

    schema: ClassVar = QuadrupedSchema
    name: ClassVar = "quadruped"
    camera_names: ClassVar = ("side",)
    default_cameras: ClassVar = {"side": (96, 128)}
    state_names: ClassVar = STATE_NAMES
    action_names: ClassVar = JOINTS
    environment_state_names: ClassVar = ENVIRONMENT_STATE_NAMES
    num_initial_states: ClassVar = None
    failing_experts: ClassVar = FAILING

    def __post_init__(self) -> None:
        if self.robot is None:
            raise UserError(
                "env.robot is not given: which quadruped? Choose one: env=go1, env=go2, env=a1, env=minicheetah"
            )
        for key in ("robot", "gait", "reward", "randomisation", "mjcf_joints"):
            value = getattr(self, key)
            object.__setattr__(self, key, _Frozen(value) if isinstance(value, Mapping) else value)
        object.__setattr__(self, "command", tuple(self.command))
        if self.fps != int(self.fps) or PHYSICS_HZ % int(self.fps):
            raise UserError(
                f"env.fps={self.fps:g} does not divide the physics rate of {PHYSICS_HZ} Hz. Type env.fps=50, the rate "
                "of the published robots"
            )
        _ = self.settings

    @cached_property
    def settings(self) -> Settings:
        """All that an episode depends on."""
        import math

        from xp.envs.quadruped.gait import gait_of

        gait_of(self.gait)
        robot = robot_of(self.robot)
        return Settings(
            robot=robot,
            description=description_of(self.mjcf, self.mjcf_joints, robot.name),
            fps=int(self.fps),
            max_steps=round(SECONDS * self.fps) if self.max_steps is None else self.max_steps,
            own_signs=self.convention == "own",
            command=command_of(list(self.command)),
            action_scale=self.action_scale,
            action_limit=self.action_limit,
            latency=self.latency,
            reward=reward_of(self.reward),
            most_tilt=math.radians(self.most_tilt),
            success_share=self.success_share,
            initial_noise=self.initial_noise,
            randomisation=randomisation_of(self.randomisation),
        )

    @property
    def robot_type(self) -> str:
        """The robot's name."""
        return self.settings.robot.name

    @property
    def tasks(self) -> Mapping[str, str]:
        """One task; its text is the name that the published trajectories of this robot have."""
        return {"walk": f"{self.robot_type}_locomotion"}

    @property
    def signs(self) -> tuple[Sequence[float], Sequence[float]]:
        """Of the 33 observed numbers and the 12 actions, relative to canonical joints."""
        own = self.settings.robot.own_signs if self.convention == "own" else (1.0,) * len(JOINTS)
        return (*(1.0,) * (len(STATE_NAMES) - 2 * len(own)), *own, *own), own

    @property
    def max_expert_noise(self) -> float | None:
        """None where the robot has no gait."""
        return None if self.gait is None else MAX_NOISE

    def check(self, env: JSONObject) -> None:
        """Nothing more to refuse than what the constructor does."""

    def make(self, task: str, *, cameras: Mapping[str, tuple[int, int]], environment_state: bool = False) -> Env:
        """The simulation of one robot."""
        from xp.envs.quadruped.env import QuadrupedEnv

        for camera in cameras:
            refuse_unknown_camera(camera, self.camera_names, self.default_cameras)
        language = self.tasks[task]
        return QuadrupedEnv(task, language, self.settings, cameras=cameras, environment_state=environment_state)

    def expert(self, env: Env, *, noise: float = 0.0, seed: int = 0) -> Actor:
        """The trotting expert; `noise` in units of actions."""
        from xp.envs.quadruped.env import QuadrupedEnv
        from xp.envs.quadruped.expert import TrottingExpert

        assert isinstance(env, QuadrupedEnv), "an env of another suite"
        return TrottingExpert(env, self._gait(), noise=noise, seed=seed)

    def failing_expert(self, env: Env, control: str) -> Actor:
        """The expert with its stride turned round (`backwards`) or none (`on_the_spot`)."""
        from xp.envs.quadruped.env import QuadrupedEnv
        from xp.envs.quadruped.expert import TrottingExpert, wrong_gait

        assert isinstance(env, QuadrupedEnv), "an env of another suite"
        assert control in FAILING, control
        return TrottingExpert(env, wrong_gait(self._gait(), control))

    def make_batch(self, task: str, count: int, *, threads: int = 1) -> "BatchEnv":
        """`count` robots that step together."""
        from xp.envs.quadruped.simulation import Simulation

        refuse_unknown_task(task, self.tasks)
        return Simulation(self.settings, count, threads=threads)

    def batch_expert(self, env: "BatchEnv") -> "BatchActor":
        """The trotting expert in all of them."""
        from xp.envs.quadruped.expert import TrottingExperts
        from xp.envs.quadruped.simulation import Simulation

        assert isinstance(env, Simulation), "an env of another suite"
        return TrottingExperts(env, self._gait())

    def noop(self, horizon: int) -> Predict:
        """A policy that holds the default pose."""
        from xp.envs.noop import Constant

        return Constant([0.0] * 12, horizon)

    def provenance(self) -> dict[str, str]:
        """MuJoCo's version; where the bodies come from a file, its sha256 and the version of the package it is of."""
        from importlib.metadata import version

        from xp.envs.mujoco_import import mujoco

        found = {"mujoco": mujoco.__version__}
        if self.settings.description is not None:
            found["mjcf"] = self.settings.description.mjcf.digest()
        if self.mjcf is not None and self.mjcf in PACKAGES:
            found[self.mjcf] = version(self.mjcf)
        return found

    @staticmethod
    def input_files(env: JSONObject) -> Mapping[str, Sequence[Path]]:
        """{key: the files that an `env` section makes the suite read}: the MJCF, what it includes, its meshes."""
        robot = env.get("robot")
        path = mjcf_path(env.get("mjcf"), str(robot.get("name")) if isinstance(robot, Mapping) else "")
        return {} if path is None else {"env.mjcf": read_mjcf(path).files}

    def _gait(self) -> "Gait":
        from xp.envs.quadruped.gait import gait_of

        gait = gait_of(self.gait)
        if gait is None:
            raise UserError(f"The robot {self.robot_type} has no gait (env.gait): tools/quadruped_gaits.py finds one.")
        return gait
