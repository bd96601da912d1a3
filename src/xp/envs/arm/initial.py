"""Initial states: a pure function of (task, seed), the same numbers on every machine.

Everything is drawn from NumPy's PCG64 and rounded to a micrometre or a microradian before it is used, so that the last
bit of some platform's arithmetic cannot change a layout.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from xp.envs.arm.arm import HOME

RADIUS = (0.135, 0.210)
"""Distance of cubes and target from the arm's foot, metres: what the arm reaches with the hand pointing down."""
BEARING = 1.0
"""Their largest angle to either side of straight ahead, radians."""
APART = 0.080
"""Least distance between any two of the three, metres: room for an open gripper."""
LANE = 0.062
"""No cube stands nearer than this to the other cube's straight way to the target (from a hand's length before it)."""
RUN_UP = 0.045
FOOT = 0.105
"""Nor does such a way pass nearer than this to the arm's foot, where the hand cannot point down."""
REACH = 0.230
"""Nor does it begin farther than this from the foot."""
HOME_SPREAD = 0.06
"""The arm starts within this many radians of its rest pose, joint by joint."""
_TRIES = 10_000


@dataclass(frozen=True)
class InitialState:
    """Where an episode begins: joint angles [5] and gripper opening, cubes' (x, y, yaw), target's (x, y)."""

    joints: tuple[float, ...]
    red: tuple[float, float, float]
    blue: tuple[float, float, float]
    target: tuple[float, float]

    def cube(self, name: str) -> tuple[float, float, float]:
        """(x, y, yaw) of the cube `name`."""
        return self.red if name == "red" else self.blue


def initial_state(task: str, seed: int) -> InitialState:
    """The initial state of `task` for `seed`: equal arguments give equal states, on any machine."""
    random = np.random.default_rng([zlib.crc32(task.encode()), seed])
    joints = np.array(HOME)
    joints[:5] += random.uniform(-HOME_SPREAD, HOME_SPREAD, 5)
    for _ in range(_TRIES):
        red, blue, target = (_spot(random) for _ in range(3))
        if _fits(red, blue, target):
            break
    else:
        raise AssertionError("the layout's distances leave no room for two cubes and a target")
    yaws = np.round(random.uniform(-np.pi / 4, np.pi / 4, 2), 6).tolist()
    return InitialState(
        joints=tuple(np.round(joints, 6).tolist()),
        red=(*red.tolist(), yaws[0]),
        blue=(*blue.tolist(), yaws[1]),
        target=tuple(target.tolist()),
    )


def _spot(random: np.random.Generator) -> np.ndarray:
    """A point on the table within reach, uniform over the area."""
    radius = np.sqrt(random.uniform(RADIUS[0] ** 2, RADIUS[1] ** 2))
    bearing = random.uniform(-BEARING, BEARING)
    return np.round([radius * np.cos(bearing), radius * np.sin(bearing)], 6)


def _fits(red: np.ndarray, blue: np.ndarray, target: np.ndarray) -> bool:
    """Whether nothing stands too near anything else, nor in the way of a push of either cube."""
    pairs = ((red, blue), (red, target), (blue, target))
    if any(np.hypot(*(a - b)) < APART for a, b in pairs):
        return False
    foot = np.zeros(2)
    for cube, other in ((red, blue), (blue, red)):
        before = _run_up(cube, target)
        if _lane(before, target, other) < LANE or _lane(before, target, foot) < FOOT or np.hypot(*before) > REACH:
            return False
    return True


def _run_up(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The point `RUN_UP` before `start` on the straight way to `end`."""
    return start - RUN_UP * (end - start) / np.hypot(*(end - start))


def _lane(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> float:
    """Distance of `point` from the segment `start` -> `end`."""
    length = np.hypot(*(end - start))
    along = (end - start) / length
    reach = np.clip((point - start) @ along, 0.0, length)
    return float(np.hypot(*(start + reach * along - point)))
