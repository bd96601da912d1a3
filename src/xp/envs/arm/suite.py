"""The arm as a suite (`env.name=arm`): the first implementation of `xp.envs.suite.Suite`. Light until `make`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from xp.config.schema import Env as EnvSchema
from xp.envs.arm.joints import ACTION_NAMES, NAMES, checked_action
from xp.envs.arm.options import (
    CAMERAS,
    DEFAULT_CAMERAS,
    ENVIRONMENT_STATE_NAMES,
    FAILING_EXPERTS,
    MAX_NOISE,
    RENDERERS,
    checked_cameras,
    checked_fps,
)
from xp.envs.arm.tasks import TASKS
from xp.envs.suite import Actor, Env, Predict
from xp.json_types import JSONObject


@dataclass
class ArmSchema(EnvSchema):
    """Keys of the section `env` with `env.name=arm`."""

    renderer: str = field(default=MISSING, metadata={"allowed": RENDERERS})
    action: str = field(default="joints", metadata={"allowed": tuple(ACTION_NAMES)})


@dataclass(frozen=True, kw_only=True)
class ArmSuite:
    """The embedded arm. `max_steps` None is ten seconds; `action` says what an action means.

    Raises:
        UserError: an fps that does not divide the physics rate, or an unknown kind of action.
    """

    fps: float = 10
    max_steps: int | None = None
    renderer: str = "raycast"
    action: str = "joints"

    schema: ClassVar = ArmSchema
    name: ClassVar = "arm"
    robot_type: ClassVar = "xp_arm"
    tasks: ClassVar = {name: info.language for name, info in TASKS.items()}
    camera_names: ClassVar = tuple(CAMERAS)
    default_cameras: ClassVar = DEFAULT_CAMERAS
    state_names: ClassVar = NAMES
    environment_state_names: ClassVar = ENVIRONMENT_STATE_NAMES
    num_initial_states: ClassVar = None
    max_expert_noise: ClassVar = MAX_NOISE
    failing_experts: ClassVar = FAILING_EXPERTS

    def __post_init__(self) -> None:
        checked_fps(self.fps)
        checked_action(self.action)

    @property
    def action_names(self) -> tuple[str, ...]:
        """See `Suite.action_names`."""
        return ACTION_NAMES[self.action]

    def check(self, env: JSONObject) -> None:
        """Refuse camera sizes that cannot be drawn."""
        cameras = env["cameras"]
        assert isinstance(cameras, Mapping), "checked before a run"
        sizes = {name: size for name, size in cameras.items() if isinstance(size, Sequence)}
        checked_cameras({name: [side for side in size if isinstance(side, int)] for name, size in sizes.items()})

    def make(self, task: str, *, cameras: Mapping[str, tuple[int, int]], environment_state: bool = False) -> Env:
        """The simulation of a task."""
        from xp.envs.arm.env import ArmEnv

        return ArmEnv(
            task,
            cameras=cameras,
            renderer=self.renderer,
            fps=self.fps,
            max_steps=self.max_steps,
            environment_state=environment_state,
            action=self.action,
        )

    def expert(self, env: Env, *, noise: float = 0.0, seed: int = 0) -> Actor:
        """The scripted expert; `noise` in radians, on the five joint commands."""
        from xp.envs.arm.env import ArmEnv
        from xp.envs.arm.expert import ScriptedExpert

        assert isinstance(env, ArmEnv), "an env of another suite"
        return ScriptedExpert(env, noise=noise, seed=seed)

    def failing_expert(self, env: Env, control: str) -> Actor:
        """The expert gone wrong in the way named by `control`."""
        from xp.envs.arm.controls import failing_expert
        from xp.envs.arm.env import ArmEnv

        assert isinstance(env, ArmEnv), "an env of another suite"
        assert control in FAILING_EXPERTS, control
        return failing_expert(env, control)

    def noop(self, horizon: int) -> Predict:
        """A policy that asks the arm to stay where it is."""
        from xp.envs.noop import Noop, StandStill

        if self.action == "joints":
            return Noop(horizon)
        names = self.action_names
        return StandStill(len(names), {names.index(NAMES[-1]): NAMES.index(NAMES[-1])}, horizon)

    def provenance(self) -> dict[str, str]:
        """MuJoCo's version and the renderer."""
        from xp.envs.mujoco_import import mujoco

        return {"mujoco": mujoco.__version__, "renderer": self.renderer}
