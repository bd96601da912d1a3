"""The arm as numbers, and its kinematics in closed form.

Five hinges and a parallel gripper with link lengths like an SO-101's (rounded by us). At zero angles every link points
up; positive lift, elbow and wrist angles bend the arm forward (+x). Angles in radians, lengths in metres, gripper
opening 0 (closed) to 1 (open). x points forward, y left, z up, from the arm's foot on the table.
"""

from dataclasses import dataclass

import numpy as np


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

LOW = np.array([joint.low for joint in JOINTS])
HIGH = np.array([joint.high for joint in JOINTS])
HOME = np.array([joint.home for joint in JOINTS])

SHOULDER_HEIGHT = 0.110
UPPER = 0.116
FORE = 0.135
HAND = 0.110
"""From the wrist's bend to the point between the fingertips."""
FINGER_TRAVEL = 0.030
"""How far each finger moves from closed to open: the gap between the pads is twice this at opening 1."""
DOWN = np.pi
"""Pitch of a hand that points straight down (0 points up, pi/2 forward)."""


class UnreachableError(ValueError):
    """The asked point lies outside what the arm can reach with the asked hand pitch."""


def forward(joints: np.ndarray) -> tuple[np.ndarray, float]:
    """Point between the fingertips [3] and the hand's pitch, for joint angles [>=5]."""
    pan, lift, elbow, wrist = joints[:4]
    bends = np.array([lift, lift + elbow, lift + elbow + wrist])
    lengths = np.array([UPPER, FORE, HAND])
    radius = float(lengths @ np.sin(bends))
    height = SHOULDER_HEIGHT + float(lengths @ np.cos(bends))
    return np.array([radius * np.cos(pan), radius * np.sin(pan), height]), float(bends[2])


def inverse(tip: np.ndarray, *, roll: float = 0.0, pitch: float = DOWN) -> np.ndarray:
    """Joint angles [5] that put the point between the fingertips at `tip` [3], elbow up.

    The pan joint turns the arm's plane through the tip; in that plane it is the two-link arm of any textbook (law of
    cosines), because the hand's pitch fixes where the wrist must be.

    Raises:
        UnreachableError: outside the arm's reach or a joint's range.
    """
    pan = np.arctan2(tip[1], tip[0])
    across = np.hypot(tip[0], tip[1]) - HAND * np.sin(pitch)
    up = tip[2] - SHOULDER_HEIGHT - HAND * np.cos(pitch)
    cosine = (across**2 + up**2 - UPPER**2 - FORE**2) / (2 * UPPER * FORE)
    if not -1.0 <= cosine <= 1.0:
        raise UnreachableError(f"The arm cannot reach {np.round(tip, 3).tolist()} m with the hand pitched {pitch:.2f}.")
    elbow = np.arccos(cosine)
    lift = np.arctan2(across, up) - np.arctan2(FORE * np.sin(elbow), UPPER + FORE * np.cos(elbow))
    joints = np.array([pan, lift, elbow, pitch - lift - elbow, roll])
    if np.any(joints < LOW[:5]) or np.any(joints > HIGH[:5]):
        raise UnreachableError(f"Reaching {np.round(tip, 3).tolist()} m takes joints {np.round(joints, 2).tolist()}.")
    return joints


def roll_for(yaw: float, pan: float, *, turns: float) -> float:
    """Wrist roll that points the fingers' opening along `yaw`, for a hand that points down.

    The opening axis of a hand pointing down has world yaw `pan + pi/2 - roll`. Of all rolls that differ by `turns`
    (pi/2 for a cube, pi for a straight edge) the smallest is taken, so that the wrist turns little.
    """
    roll = pan + np.pi / 2 - yaw
    return float(roll - turns * np.round(roll / turns))
