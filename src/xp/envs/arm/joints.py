"""The arm's joints: names, ranges, servos; and what its actions are called.

Light: what is asked before a run imports no numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from xp.errors import UserError, did_you_mean, join_names


@dataclass(frozen=True)
class Joint:
    """One actuated joint: its name, range, the pose it rests in, and the gains of its position servo.

    `kp` in N m / rad and `damping` in N m s / rad for hinges; for the gripper per finger, in N / m and N s / m.
    `force` is the servo's limit in N m or N.
    """

    name: str
    low: float
    high: float
    home: float
    kp: float
    damping: float
    force: float


JOINTS = (
    Joint("shoulder_pan.pos", -1.92, 1.92, 0.0, kp=40.0, damping=2.0, force=8.0),
    Joint("shoulder_lift.pos", -1.60, 1.60, -0.04, kp=60.0, damping=2.6, force=12.0),
    Joint("elbow_flex.pos", -0.20, 2.75, 1.58, kp=60.0, damping=2.2, force=12.0),
    Joint("wrist_flex.pos", -0.60, 3.00, 1.60, kp=25.0, damping=0.8, force=6.0),
    Joint("wrist_roll.pos", -2.70, 2.70, 0.0, kp=10.0, damping=0.25, force=3.0),
    Joint("gripper.pos", 0.0, 1.0, 0.8, kp=500.0, damping=8.0, force=6.0),
)
NAMES = tuple(joint.name for joint in JOINTS)
"""Names of the six numbers of a state and of an action, in order (LeRobot's names for the SO-101)."""

ACTION_NAMES: Mapping[str, tuple[str, ...]] = {
    "joints": NAMES,
    "ee_delta": (*(f"hand.d{axis}" for axis in "xyz"), *(f"hand.dr{axis}" for axis in "xyz"), NAMES[-1]),
}
"""Value of `env.action` -> names of an action's numbers (`xp.envs.arm.actions` says what they mean)."""


def checked_action(name: str) -> str:
    """`name`, which is a kind of action.

    Raises:
        UserError: there is none of that name.
    """
    if name not in ACTION_NAMES:
        raise UserError(
            f"env.action={name}: the arm takes {join_names(ACTION_NAMES)}{did_you_mean(name, ACTION_NAMES)}. Type "
            "env.action=joints or env.action=ee_delta."
        )
    return name
