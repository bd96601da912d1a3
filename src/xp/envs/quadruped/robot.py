"""The numbers of a quadruped, read from `env.robot` and checked. Imports nothing heavy.

Legs are FR, FL, RR, RL (front right, front left, rear right, rear left), joints of a leg hip, thigh, calf. SI units and
radians; x points forward, y to the left, z up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from xp.errors import UserError, did_you_mean, join_names

LEGS = ("FR", "FL", "RR", "RL")
PARTS = ("hip", "thigh", "calf")
JOINTS = tuple(f"{leg}_{part}" for leg in LEGS for part in PARTS)
"""The canonical order of joints; their signs are Unitree's, by which a bent leg has thigh > 0 and calf < 0."""

type Vector = tuple[float, ...]


@dataclass(frozen=True)
class Body:
    """A rigid body: mass, centre of mass [3], moments of inertia [3] about it; `quat` [4] turns their axes."""

    mass: float
    com: Vector
    inertia: Vector
    quat: Vector = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Robot:
    """One quadruped. Per-leg triples are hip, thigh, calf; the bodies are those of a right front leg."""

    name: str
    trunk: Body
    trunk_size: Vector
    hip: Body
    thigh: Body
    calf: Body
    hip_offset: Vector
    """|x|, |y| of a hip's axis from the trunk's origin."""
    thigh_offset: float
    """Sideways from the hip's axis to the thigh's."""
    thigh_length: float
    calf_length: float
    foot_radius: float
    rotor_mass: float
    """Of each joint's rotor, where it is not counted in the bodies: it sits at the joint, in the body before it."""
    hip_range: Vector
    thigh_range: Vector
    calf_range: Vector
    torque_limit: Vector
    armature: Vector
    damping: float
    frictionloss: Vector
    stiffness: float
    """Proportional gain of the joints' servos, Nm/rad."""
    servo_damping: float
    """Derivative gain, Nm s/rad."""
    default_pose: Vector
    """[12], where an action of zeros points to."""
    target_height: float
    """Of the trunk, by the reward."""
    initial_height: float
    """Of the trunk, where an episode begins."""
    flipped: tuple[str, ...]
    """Parts whose axes the robot's own convention turns the other way (of Mini Cheetah thigh and calf)."""

    @property
    def own_signs(self) -> Vector:
        """[12]: what turns canonical joint values into those of the robot's own convention, and back."""
        return tuple(-1.0 if part in self.flipped else 1.0 for _ in LEGS for part in PARTS)


_VECTORS = {
    "trunk_size": 3,
    "hip_offset": 2,
    "hip_range": 2,
    "thigh_range": 2,
    "calf_range": 2,
    "torque_limit": 3,
    "armature": 3,
    "frictionloss": 3,
    "default_pose": 12,
}
_NUMBERS = (
    "thigh_offset",
    "thigh_length",
    "calf_length",
    "foot_radius",
    "rotor_mass",
    "damping",
    "stiffness",
    "servo_damping",
    "target_height",
    "initial_height",
)
_POSITIVE = ("thigh_length", "calf_length", "foot_radius", "stiffness", "target_height", "initial_height")
_BODIES = ("trunk", *PARTS)
KEYS = ("name", *_BODIES, *_VECTORS, *_NUMBERS, "flipped")
LARGEST = 1e3
"""No number of a robot of this kind is larger, in SI units."""


def robot_of(given: object) -> Robot:
    """The robot that a section `env.robot` describes.

    Raises:
        UserError: a key is missing, unknown, or of another kind; a mass or length that cannot be.
    """
    fields = _mapping(given, "env.robot", KEYS)
    name, flipped = fields["name"], fields["flipped"]
    if not isinstance(name, str) or not name:
        raise UserError(f"env.robot.name={name}: expected a name, such as env.robot.name=go2")
    if not isinstance(flipped, Sequence) or isinstance(flipped, str) or any(each not in PARTS for each in flipped):
        raise UserError(f"env.robot.flipped={flipped}: expected a list of {join_names(PARTS)}, or []")
    bodies = {part: _body(fields[part], f"env.robot.{part}") for part in _BODIES}
    vectors = {key: _vector(fields[key], f"env.robot.{key}", count) for key, count in _VECTORS.items()}
    numbers = {key: _number(fields[key], f"env.robot.{key}") for key in _NUMBERS}
    for key, value in numbers.items():
        if value < 0 or (value == 0 and key in _POSITIVE):
            raise UserError(f"env.robot.{key}={value:g}: must be {'above 0' if key in _POSITIVE else 'at least 0'}.")
    for part in PARTS:
        low, high = vectors[f"{part}_range"]
        if low >= high:
            raise UserError(f"env.robot.{part}_range=[{low:g},{high:g}]: expected two ascending angles, radians.")
    return Robot(name=name, flipped=tuple(flipped), **bodies, **vectors, **numbers)  # pyright: ignore[reportArgumentType] - keys checked above


def _mapping(given: object, key: str, wanted: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, object]:
    if not isinstance(given, Mapping):
        raise UserError(f"{key}={given}: expected a mapping with {join_names(wanted)}. Choose a robot, e.g. env=go2")
    fields = cast("Mapping[str, object]", given)
    for each in fields:
        if each not in (*wanted, *optional):
            raise UserError(f"{key}.{each}: there is no such key{did_you_mean(each, wanted)}.")
    for each in wanted:
        if each not in fields:
            raise UserError(f"{key}.{each} is missing: a quadruped is described by {join_names(wanted)}.")
    return fields


def _body(given: object, key: str) -> Body:
    fields = _mapping(given, key, ("mass", "com", "inertia"), ("quat",))
    mass, inertia = _number(fields["mass"], f"{key}.mass"), _vector(fields["inertia"], f"{key}.inertia", 3)
    if mass <= 0 or min(inertia) <= 0:
        raise UserError(f"{key}: mass {mass:g} and inertia {list(inertia)} must be above 0.")
    quat = _vector(fields.get("quat", (1.0, 0.0, 0.0, 0.0)), f"{key}.quat", 4)
    if not any(quat):
        raise UserError(f"{key}.quat=[0,0,0,0] is no rotation: give [1,0,0,0] for none.")
    return Body(mass, _vector(fields["com"], f"{key}.com", 3), inertia, quat)


def _vector(given: object, key: str, count: int) -> Vector:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != count:
        raise UserError(f"{key}={given}: expected a list of {count} numbers.")
    return tuple(_number(each, key) for each in cast("Sequence[object]", given))


def _number(given: object, key: str) -> float:
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or not math.isfinite(given)
        or abs(given) > LARGEST
    ):
        raise UserError(f"{key}={given}: expected a number, at most {LARGEST:g} in size.")
    return float(given)
