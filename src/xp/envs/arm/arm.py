"""The arm as numbers, and its kinematics in closed form.

Five hinges and a parallel gripper with link lengths like an SO-101's (rounded by us). At zero angles every link points
up; positive lift, elbow and wrist angles bend the arm forward (+x). Angles in radians, lengths in metres, gripper
opening 0 (closed) to 1 (open). x points forward, y left, z up, from the arm's foot on the table.
"""

import numpy as np
from jaxtyping import Float

from xp.envs.arm.joints import JOINTS

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


def forward(joints: Float[np.ndarray, " joints"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Point between the fingertips [3] and the hand's pitch, for joint angles [>=5]."""
    pan, lift, elbow, wrist = joints[:4]
    bends = np.array([lift, lift + elbow, lift + elbow + wrist])
    lengths = np.array([UPPER, FORE, HAND])
    radius = float(lengths @ np.sin(bends))
    height = SHOULDER_HEIGHT + float(lengths @ np.cos(bends))
    return np.array([radius * np.cos(pan), radius * np.sin(pan), height]), float(bends[2])


def inverse(tip: Float[np.ndarray, "3"], *, roll: float = 0.0, pitch: float = DOWN) -> Float[np.ndarray, "5"]:
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
