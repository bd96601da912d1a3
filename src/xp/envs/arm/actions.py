"""What an action means (`env.action`): where the six joints shall be, or how the hand shall move and turn.

Both become a command: where the six servo targets shall stand at the end of a control period.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from xp.envs.arm.arm import DOWN, HIGH, LOW, UnreachableError, forward, inverse
from xp.envs.arm.joints import ACTION_NAMES, checked_action

MOVE = 0.05
"""Metres that 1 means in a step's first three numbers: robosuite's OSC_POSE, hence LIBERO, has the same."""
TURN = 0.5
"""Radians that 1 means in the next three (OSC_POSE's too)."""
FLOOR = 0.008
"""Lowest height of the point between the fingertips, metres: the fingers end this far below it, on the table."""
_HALVINGS = 12


@runtime_checkable
class ActionSpace(Protocol):
    """A kind of action. Commands are [6], actions [A]."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the A numbers."""
        ...

    @property
    def low(self) -> Float[np.ndarray, " action"]:
        """Least values; what is smaller is clipped."""
        ...

    @property
    def high(self) -> Float[np.ndarray, " action"]:
        """Largest values."""
        ...

    def command(self, now: Float[np.ndarray, "6"], action: Float[np.ndarray, " action"]) -> Float[np.ndarray, "6"]:
        """The command that an action makes of the present one, within the joints' ranges."""
        ...

    def action(self, now: Float[np.ndarray, "6"], wanted: Float[np.ndarray, "6"]) -> Float[np.ndarray, " action"]:
        """The action that leads from the present command to a wanted one, as near as one step comes."""
        ...


@dataclass(frozen=True)
class JointTargets:
    """An action is a command: five joint angles in radians and the gripper's opening 0..1."""

    names = ACTION_NAMES["joints"]
    low = LOW
    high = HIGH

    def command(self, now: Float[np.ndarray, "6"], action: Float[np.ndarray, "6"]) -> Float[np.ndarray, "6"]:
        """See `ActionSpace.command`."""
        return np.clip(action, LOW, HIGH)

    def action(self, now: Float[np.ndarray, "6"], wanted: Float[np.ndarray, "6"]) -> Float[np.ndarray, "6"]:
        """See `ActionSpace.action`."""
        return wanted


@dataclass(frozen=True)
class HandSteps:
    """An action [7] is a step of the hand's target: how it moves and turns, and the gripper's opening 0..1.

    The frame is the arm's foot (x forward, y left, z up); a step of 1 is 5 cm or half a radian. Steps add up on the
    target, not on where the hand has come to, so that N steps of 1/N each go the way of one whole step. The hand points
    down: of its turns only that about z is in reach of five joints, the other two are clipped to 0, and a pitch that
    the initial state gave it is gone after the first step. A move that leads out of the arm's reach is gone as far as
    it can; the roll stops at its joint's range.
    """

    names = ACTION_NAMES["ee_delta"]
    low = np.array([-1, -1, -1, 0, 0, -1, 0], np.float64)
    high = np.array([1, 1, 1, 0, 0, 1, 1], np.float64)

    def command(self, now: Float[np.ndarray, "6"], action: Float[np.ndarray, "7"]) -> Float[np.ndarray, "6"]:
        """See `ActionSpace.command`."""
        step = np.clip(action, self.low, self.high)
        tip, yaw = _pose(now)
        there, turned = tip + MOVE * step[:3], yaw + TURN * step[5]
        there[2] = max(there[2], FLOOR)
        joints = _furthest(tip, there, turned)
        return np.append(now[:5] if joints is None else joints, step[6])

    def action(self, now: Float[np.ndarray, "6"], wanted: Float[np.ndarray, "6"]) -> Float[np.ndarray, "7"]:
        """See `ActionSpace.action`; of a wanted hand that does not point down, its place and its turn about z."""
        (tip, yaw), (there, turned) = _pose(now), _pose(wanted)
        step = np.concatenate([(there - tip) / MOVE, [0, 0, (turned - yaw) / TURN], wanted[5:]])
        return np.clip(step, self.low, self.high)


ACTION_SPACES: dict[str, ActionSpace] = {"joints": JointTargets(), "ee_delta": HandSteps()}
"""Value of `env.action` -> what it means."""


def action_space(name: str) -> ActionSpace:
    """The kind of action called `name`.

    Raises:
        UserError: there is none of that name.
    """
    return ACTION_SPACES[checked_action(name)]


def _pose(command: Float[np.ndarray, "6"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Where the point between the fingertips is [3], and how a hand that points down is turned about z."""
    return forward(command)[0], float(command[0] - command[4])


def _furthest(tip: Float[np.ndarray, "3"], there: Float[np.ndarray, "3"], yaw: float) -> Float[np.ndarray, "5"] | None:
    """Joint angles at the last point in reach on the straight way from `tip` to `there`; None if no point of it is."""
    found = _reached(there, yaw)
    if found is not None:
        return found
    best, near, far = _reached(tip, yaw), 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        found = _reached(tip + middle * (there - tip), yaw)
        near, far, best = (near, middle, best) if found is None else (middle, far, found)
    return best


def _reached(tip: Float[np.ndarray, "3"], yaw: float) -> Float[np.ndarray, "5"] | None:
    """Joint angles of a hand that points down at `tip`; its roll as near to `yaw` as its joint's range lets it."""
    try:
        joints = inverse(tip, pitch=DOWN)
    except UnreachableError:
        return None
    joints[4] = np.clip(joints[0] - yaw, LOW[4], HIGH[4])
    return joints
