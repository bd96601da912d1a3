"""What a walk is judged by and how it begins: the settings of the section `env` beside the robot's own numbers.

The defaults are those of the Genesis environments of Vintix's self-improving fork (github.com/ishiishiishii/vintix,
`locomotion/go2_env.py`). Imports nothing heavy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from xp.envs.quadruped.description import Description
from xp.envs.quadruped.robot import JOINTS, Robot, Vector
from xp.errors import UserError, join_names

STATE_NAMES = (
    *(f"angular_velocity.{axis}" for axis in "xyz"),
    *(f"gravity.{axis}" for axis in "xyz"),
    *(f"command.{each}" for each in ("forward", "left", "yaw")),
    *(f"{joint}.position" for joint in JOINTS),
    *(f"{joint}.velocity" for joint in JOINTS),
)
"""The 33 numbers of an observation; each is scaled by `OBSERVATION_SCALES`, positions are relative to the default."""
OBSERVATION_SCALES: Vector = (*(0.25,) * 3, *(1.0,) * 3, 2.0, 2.0, 0.25, *(1.0,) * 12, *(0.05,) * 12)
ENVIRONMENT_STATE_NAMES = ("velocity.forward", "velocity.left", "velocity.up", "height")
SECONDS = 20.0
"""Length of an episode where `env.max_steps` is not given."""
TRACKING = 0.25
"""Squared error of a velocity, m2/s2 or rad2/s2, at which its reward has fallen to 1/e."""
PUSH_SECONDS = 4.0
TERMS = ("velocity", "yaw_rate", "vertical_speed", "height", "action_change", "pose")
FACTORS = ("friction", "mass", "gains")


@dataclass(frozen=True)
class Randomisation:
    """Bounds of the factors that are drawn for each episode, and the speed of pushes, m/s."""

    friction: Vector = (1.0, 1.0)
    mass: Vector = (1.0, 1.0)
    gains: Vector = (1.0, 1.0)
    push: float = 0.0

    @property
    def changes_models(self) -> bool:
        """Whether episodes differ in more than their states."""
        return any(getattr(self, name) != (1.0, 1.0) for name in FACTORS)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that an episode depends on beside its seed and its actions."""

    robot: Robot
    description: Description | None = None
    """Where the robot's bodies come from a file."""
    fps: int
    max_steps: int
    own_signs: bool
    command: Vector
    action_scale: float
    action_limit: float
    latency: int
    reward: tuple[tuple[str, float], ...]
    most_tilt: float
    """Radians of roll or pitch."""
    success_share: float
    initial_noise: float
    randomisation: Randomisation

    @property
    def largest_return(self) -> float:
        """Of an episode: every step at the best that both rewards of tracking give."""
        weights = dict(self.reward)
        return self.max_steps / self.fps * (weights["velocity"] + weights["yaw_rate"])


def reward_of(given: object) -> tuple[tuple[str, float], ...]:
    """The weights of the reward's terms.

    Raises:
        UserError: a term is missing, unknown or no number.
    """
    weights = _mapping(given, "env.reward", TERMS)
    return tuple((term, _finite(weights[term], f"env.reward.{term}")) for term in TERMS)


def randomisation_of(given: object) -> Randomisation:
    """The bounds of what is drawn for each episode.

    Raises:
        UserError: a key is missing or unknown, or bounds that are none.
    """
    fields = _mapping(given, "env.randomisation", (*FACTORS, "push"))
    bounds = {}
    for name in FACTORS:
        pair = fields[name]
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UserError(f"env.randomisation.{name}={pair}: expected two factors, such as [0.8, 1.2]")
        low, high = (_finite(each, f"env.randomisation.{name}") for each in cast("list[object]", pair))
        if not 0 < low <= high <= 10:
            raise UserError(f"env.randomisation.{name}=[{low:g},{high:g}]: expected 0 < low <= high <= 10")
        bounds[name] = (low, high)
    push = _finite(fields["push"], "env.randomisation.push")
    if not 0 <= push <= 10:
        raise UserError(f"env.randomisation.push={push:g}: must be between 0 and 10 m/s.")
    return Randomisation(**bounds, push=push)


def command_of(given: object) -> Vector:
    """Forward, left [m/s] and yaw [rad/s].

    Raises:
        UserError: no three numbers.
    """
    if not isinstance(given, list | tuple) or len(given) != 3:
        raise UserError(f"env.command={given}: expected three numbers, such as [0.5, 0.0, 0.0]")
    return tuple(_finite(each, "env.command") for each in cast("list[object]", given))


def _mapping(given: object, key: str, wanted: tuple[str, ...]) -> Mapping[str, object]:
    fields = cast("Mapping[str, object]", given) if isinstance(given, Mapping) else {}
    if set(fields) != set(wanted):
        raise UserError(f"{key}={given}: expected a mapping with exactly {join_names(wanted)}.")
    return fields


def _finite(given: object, key: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise UserError(f"{key}={given}: expected a number.")
    return float(given)
