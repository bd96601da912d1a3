"""The arm as a suite (`env.name=arm`): the first implementation of `xp.envs.suite.Suite`. Light until `make`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from xp.config.schema import Env as EnvSchema
from xp.envs.arm.arm import NAMES
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


@dataclass
class ArmSchema(EnvSchema):
    """Keys of the section `env` with `env.name=arm`."""

    renderer: str = field(default=MISSING, metadata={"allowed": RENDERERS})


@dataclass(frozen=True, kw_only=True)
class ArmSuite:
    """The embedded arm. `max_steps` None is ten seconds.

    Raises:
        UserError: an fps that does not divide the physics rate.
    """

    fps: float = 10
    max_steps: int | None = None
    renderer: str = "raycast"

    schema: ClassVar = ArmSchema
    name: ClassVar = "arm"
    robot_type: ClassVar = "xp_arm"
    tasks: ClassVar = {name: info.language for name, info in TASKS.items()}
    camera_names: ClassVar = tuple(CAMERAS)
    default_cameras: ClassVar = DEFAULT_CAMERAS
    state_names: ClassVar = NAMES
    action_names: ClassVar = NAMES
    environment_state_names: ClassVar = ENVIRONMENT_STATE_NAMES
    num_initial_states: ClassVar = None
    max_expert_noise: ClassVar = MAX_NOISE
    failing_experts: ClassVar = FAILING_EXPERTS

    def __post_init__(self) -> None:
        checked_fps(self.fps)

    def check(self, env: Mapping[str, Any]) -> None:
        """Refuse camera sizes that cannot be drawn."""
        checked_cameras(env["cameras"])

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
        )

    def expert(self, env: Env, *, noise: float = 0.0, seed: int = 0) -> Actor:
        """The scripted expert; `noise` in radians, on the five joint commands."""
        from xp.envs.arm.env import ArmEnv
        from xp.envs.arm.expert import ScriptedExpert

        assert isinstance(env, ArmEnv), "an env of another suite"
        return ScriptedExpert(env, noise=noise, seed=seed)

    def failing_expert(self, env: Env, control: Any) -> Actor:
        """The expert gone wrong in the way named by `control`."""
        from xp.envs.arm.controls import failing_expert
        from xp.envs.arm.env import ArmEnv

        assert isinstance(env, ArmEnv), "an env of another suite"
        assert control in FAILING_EXPERTS, control
        return failing_expert(env, control)

    def noop(self, horizon: int) -> Predict:
        """A policy that asks the arm to stay where it is."""
        from xp.envs.controls import Noop

        return Noop(horizon)

    def provenance(self) -> dict[str, str]:
        """MuJoCo's version and the renderer."""
        from xp.envs.mujoco_import import mujoco

        return {"mujoco": mujoco.__version__, "renderer": self.renderer}
