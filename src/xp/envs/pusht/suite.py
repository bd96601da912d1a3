"""PushT as a suite (`env=pusht`), with an expert that plans its pushes. Light until `make`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from xp.envs.pusht.options import (
    CAMERA,
    ENVIRONMENT_STATE_NAMES,
    FAILING_EXPERTS,
    FPS,
    MAX_NOISE,
    NATIVE_SIZE,
    STATE_NAMES,
    TASKS,
    checked_fps,
    require_package,
)
from xp.envs.suite import Actor, Env, Predict
from xp.json_types import JSONObject


@dataclass(frozen=True, kw_only=True)
class PushtSuite:
    """PushT. `max_steps` None is the published limit of 300.

    Raises:
        UserError: gym-pusht is not installed, or another rate than its own.
    """

    fps: float = FPS
    max_steps: int | None = None

    name: ClassVar = "pusht"
    robot_type: ClassVar = "pusht"
    tasks: ClassVar = TASKS
    camera_names: ClassVar = (CAMERA,)
    default_cameras: ClassVar = {CAMERA: (NATIVE_SIZE, NATIVE_SIZE)}
    state_names: ClassVar = STATE_NAMES
    action_names: ClassVar = STATE_NAMES
    environment_state_names: ClassVar = ENVIRONMENT_STATE_NAMES
    num_initial_states: ClassVar = None
    max_expert_noise: ClassVar = MAX_NOISE
    failing_experts: ClassVar = FAILING_EXPERTS

    def __post_init__(self) -> None:
        require_package()
        checked_fps(self.fps)

    def check(self, env: JSONObject) -> None:
        """Nothing more to refuse than what the protocol says."""

    def make(self, task: str, *, cameras: Mapping[str, tuple[int, int]], environment_state: bool = False) -> Env:
        """The simulation."""
        from xp.envs.pusht.env import PushtEnv

        return PushtEnv(task, cameras=cameras, max_steps=self.max_steps, environment_state=environment_state)

    def expert(self, env: Env, *, noise: float = 0.0, seed: int = 0) -> Actor:
        """The planning expert; `noise` in pixels."""
        from xp.envs.pusht.env import PushtEnv
        from xp.envs.pusht.expert import PushExpert

        assert isinstance(env, PushtEnv), "an env of another suite"
        return PushExpert(env, noise=noise, seed=seed)

    def failing_expert(self, env: Env, control: str) -> Actor:
        """The expert with a wrong goal: the T turned by half a turn (`upside_down`), or 60 pixels off (`beside`)."""
        from xp.envs.pusht.env import PushtEnv
        from xp.envs.pusht.expert import PushExpert, wrong_goal

        assert isinstance(env, PushtEnv), "an env of another suite"
        assert control in FAILING_EXPERTS, control
        return PushExpert(env, goal=wrong_goal(control))

    def noop(self, horizon: int) -> Predict:
        """A policy that asks the agent to stay where it is."""
        from xp.envs.noop import Noop

        return Noop(horizon)

    def provenance(self) -> dict[str, str]:
        """Versions of the simulator and of its engine."""
        from importlib.metadata import version

        return {name: version(name) for name in ("gym-pusht", "gymnasium", "pymunk")}
