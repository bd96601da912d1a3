"""`env=gymnasium`: one registered gymnasium env as a suite of one task. Light until something is asked of the env."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from xp.config.schema import Env as EnvSchema
from xp.envs.suite import Actor, Env, Predict
from xp.errors import UserError
from xp.json_types import JSONObject

if TYPE_CHECKING:
    from xp.envs.gym_suite.registered import Asked, Found

TASK = "task"
SUCCESS = ("info", "terminated")
NOOPS = ("zero", "hold")


@dataclass
class GymnasiumSchema(EnvSchema):
    """Keys of the section `env` with `env.name=gymnasium`."""

    id: str | None = None
    package: str | None = None
    kwargs: dict[str, Any] = MISSING
    instruction: str | None = None
    success: str = field(default=MISSING, metadata={"allowed": SUCCESS})
    noop_action: str = field(default=MISSING, metadata={"allowed": NOOPS})


@dataclass(frozen=True, kw_only=True)
class GymnasiumSuite:
    """The env that `id` names, registered by the module `package`, made with `kwargs`.

    `instruction` stands for what the env itself says is to be done. `success`: `info` or `terminated`, as in
    `GymnasiumEnv`. `noop_action`: what the control that does nothing sends, `zero` or `hold` (the last state).

    Raises:
        UserError: no id.
    """

    fps: float = 10
    max_steps: int | None = None
    id: str | None = None
    package: str | None = None
    kwargs: JSONObject | str = "{}"
    instruction: str | None = None
    success: str = "info"
    noop_action: str = "zero"

    schema: ClassVar = GymnasiumSchema
    name: ClassVar = "gymnasium"
    max_expert_noise: ClassVar = None
    failing_experts: ClassVar = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise UserError(
                "env.id is not given: which env? Give its id in gymnasium's registry and the module that registers it, "
                "e.g. env.id=gym_pusht/PushT-v0 env.package=gym_pusht"
            )
        if not isinstance(self.kwargs, str):  # text, because a suite is hashable
            object.__setattr__(self, "kwargs", json.dumps(self.kwargs, sort_keys=True))

    @property
    def asked(self) -> "Asked":
        """What `gymnasium.make` is asked for."""
        from xp.envs.gym_suite.registered import Asked

        assert self.id and isinstance(self.kwargs, str), "checked when made"
        return Asked(self.id, self.package, self.kwargs)

    @property
    def found(self) -> "Found":
        """What the env shows and takes; makes it once a process."""
        from xp.envs.gym_suite.registered import find

        return find(self.asked)

    @property
    def robot_type(self) -> str:
        """The id: gymnasium knows no robots."""
        return str(self.id)

    @property
    def tasks(self) -> Mapping[str, str]:
        """The one task."""
        return {TASK: self.instruction or self.found.language}

    @property
    def camera_names(self) -> Sequence[str]:
        """Keys of `pixels`; `image` where it is one array."""
        return tuple(self.found.cameras)

    @property
    def default_cameras(self) -> Mapping[str, tuple[int, int]]:
        """All cameras at their own size."""
        return self.found.cameras

    @property
    def state_names(self) -> Sequence[str]:
        """Numbered: a Box has no names."""
        return _numbered("agent_pos", self.found.state_dim)

    @property
    def action_names(self) -> Sequence[str]:
        """Numbered, too."""
        return _numbered("action", self.found.action_dim)

    @property
    def environment_state_names(self) -> Sequence[str]:
        """Numbered, too."""
        return _numbered("environment_state", self.found.environment_dim)

    @property
    def num_initial_states(self) -> int | None:
        """1 where seeds do not differ."""
        return self.found.initial_states

    def check(self, env: JSONObject) -> None:
        """Refuse another rate than the env's own."""
        rate = self.found.fps
        if rate != self.fps:
            raise UserError(
                f"env.fps={self.fps:g}: {self.id} makes {rate:g} control steps a second. Type env.fps={rate:g}"
            )

    def make(self, task: str, *, cameras: Mapping[str, tuple[int, int]], environment_state: bool = False) -> Env:
        """The env."""
        from xp.envs.gym_suite.env import GymnasiumEnv

        return GymnasiumEnv(
            self.asked,
            task,
            cameras=cameras,
            language=self.instruction,
            max_steps=self.max_steps,
            environment_state=environment_state,
            success=self.success,
        )

    def expert(self, env: Env, *, noise: float = 0.0, seed: int = 0) -> Actor:
        """There is none."""
        raise UserError(f"The suite gymnasium has no expert for {self.id}. Give a policy: collect.policy=POLICY")

    def failing_expert(self, env: Env, control: str) -> Actor:
        """There is none either."""
        raise AssertionError("gymnasium names no failing experts")

    def noop(self, horizon: int) -> Predict:
        """Sends zeros, or the last state, as `noop_action` says."""
        from xp.envs.noop import Constant, Noop

        if self.noop_action == "zero":
            return Constant([0.0] * self.found.action_dim, horizon)
        if self.found.state_dim != self.found.action_dim:
            raise UserError(
                f"env.noop_action=hold: {self.id} has {self.found.state_dim} numbers of agent_pos and "
                f"{self.found.action_dim} of an action, so its actions are no states. Type env.noop_action=zero"
            )
        return Noop(horizon)

    def provenance(self) -> dict[str, str]:
        """The env's id, gymnasium's version and that of the package that registers it."""
        from importlib import metadata

        versions = {"env": str(self.id), "gymnasium": metadata.version("gymnasium")}
        top = str(self.package or "").partition(".")[0]
        for name in metadata.packages_distributions().get(top, [])[:1]:
            versions[name] = metadata.version(name)
        return versions


def _numbered(name: str, width: int) -> Sequence[str]:
    return tuple(f"{name}_{index}" for index in range(width))
