"""The suite `toy_reach` (`env.name=toy_reach`): its facts. Imports nothing heavy until `make`."""

from dataclasses import dataclass, field
from typing import ClassVar

from xp.config.schema import Env as EnvSchema


@dataclass
class ReachSchema(EnvSchema):
    """Keys of the section `env` with `env.name=toy_reach`."""

    radius: float = field(default=0.2, metadata={"min": 0.01, "max": 1.0})


@dataclass(frozen=True, kw_only=True)
class ReachSuite:
    """A point in the square from -1 to 1 and a goal of some `radius`; actions are places to go to."""

    fps: float = 10
    max_steps: int | None = None
    radius: float = 0.2

    schema: ClassVar = ReachSchema
    name: ClassVar = "toy_reach"
    robot_type: ClassVar = "toy_point"
    tasks: ClassVar = {"reach": "go to the red square", "avoid": "go away from the red square"}
    camera_names: ClassVar = ("above",)
    default_cameras: ClassVar = {"above": (32, 32)}
    state_names: ClassVar = ("x", "y")
    action_names: ClassVar = ("x", "y")
    environment_state_names: ClassVar = ()
    num_initial_states: ClassVar = None
    max_expert_noise: ClassVar = 0.1
    failing_experts: ClassVar = ("mirrored",)

    def check(self, env):
        """Nothing more to refuse than what `schema` says."""

    def make(self, task, *, cameras, environment_state=False):
        """See `xp.envs.suite.Suite.make`."""
        from xp_toys.toy_reach.env import ReachEnv

        return ReachEnv(task, self, cameras)

    def expert(self, env, *, noise=0.0, seed=0):
        """Goes straight to the goal, or to the corner farthest from it."""
        from xp_toys.toy_reach.env import ReachExpert

        return ReachExpert(env, noise=noise, seed=seed)

    def failing_expert(self, env, control):
        """Goes the other way."""
        from xp_toys.toy_reach.env import ReachExpert

        return ReachExpert(env, sign=-1)

    def noop(self, horizon):
        """Stays where it is."""
        from xp.envs import Noop

        return Noop(horizon)

    def provenance(self):
        """Nothing but this package decides results."""
        from importlib.metadata import version

        return {"toy_reach": version("xp-toys")}
