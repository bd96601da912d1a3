"""The T-shaped block of PushT as geometry: its outline, the goal, how far a pose is from it. Pixels and radians.

A pose is (x, y, angle): where the middle of the bar's long outer edge lies, as `pymunk` and gym-pusht give it. In the
block's own frame the bar is 120 x 30 and the stem 30 x 90 below it.
"""

import numpy as np
from jaxtyping import Float

Numbers = np.floating | Float[np.ndarray, "..."]
"""One number, or an array of them."""

GOAL = (256.0, 256.0, np.pi / 4)
"""The pose that the block shall have."""
SIDE = 512.0
"""Width and height of the workspace; actions are points in it."""
WALL = 7.0
"""Where the inner faces of the walls lie: at this distance from each side."""
AGENT_RADIUS = 15.0
RECTANGLES = np.array([[-60.0, 0.0, 60.0, 30.0], [-15.0, 30.0, 15.0, 120.0]])
"""Bar and stem in the block's frame, as left, top, right, bottom."""
CORNERS = np.array([[-60.0, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30]])
"""The outline's corners, in its order."""
MASS_CENTRE = np.array([0.0, 45.0])
"""The centre of mass that gym-pusht gives the block (the mean of both rectangles' centres)."""
GYRATION_SQUARED = 3000.0
"""Moment of inertia over mass, as gym-pusht sets both: twice the bar's moment about the frame's origin, mass 1."""
_AREAS = np.prod(RECTANGLES[:, 2:] - RECTANGLES[:, :2], axis=1)
_MIDDLES = (RECTANGLES[:, :2] + RECTANGLES[:, 2:]) / 2
CENTROID = _AREAS @ _MIDDLES / _AREAS.sum()
"""The centre of the T's area."""
_SPREAD = ((RECTANGLES[:, 2:] - RECTANGLES[:, :2]) ** 2).sum(axis=1) / 12 + ((_MIDDLES - CENTROID) ** 2).sum(axis=1)
AREA_RADIUS = float(np.sqrt(_AREAS @ _SPREAD / _AREAS.sum()))
"""Root mean square distance of the T's points from the centroid."""


def rotated(
    points: Float[np.ndarray, "*#batch 2"], angle: Float[np.ndarray, "*#batch"] | float
) -> Float[np.ndarray, "... 2"]:
    """Vectors turned by `angle`."""
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = points[..., 0], points[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)


def to_world(
    pose: Float[np.ndarray, "*#batch 3"], points: Float[np.ndarray, "*#batch 2"]
) -> Float[np.ndarray, "... 2"]:
    """Points of the block's frame in the workspace."""
    return pose[..., :2] + rotated(points, pose[..., 2])


def to_block(
    pose: Float[np.ndarray, "*#batch 3"], points: Float[np.ndarray, "*#batch 2"]
) -> Float[np.ndarray, "... 2"]:
    """Points of the workspace in the block's frame."""
    return rotated(points - pose[..., :2], -pose[..., 2])


def distance(points: Float[np.ndarray, "*batch 2"]) -> Numbers:
    """[*batch]: how far points of the block's frame lie from the T, 0 inside."""
    beyond = [np.maximum(np.maximum(box[:2] - points, points - box[2:]), 0.0) for box in RECTANGLES]
    return np.sqrt(np.minimum((beyond[0] ** 2).sum(-1), (beyond[1] ** 2).sum(-1)))


def pose_error(pose: Float[np.ndarray, "*batch 3"], goal: Float[np.ndarray, "*#batch 3"] | None = None) -> Numbers:
    """[*batch]: how far a pose is from the goal, pixels.

    It is sqrt(|d|^2 + (r a)^2), d being the centroid's way, a the turn and r `AREA_RADIUS`. For small turns it is the
    root mean square distance of the T's points from where they belong; unlike that it goes on growing up to half a
    turn.
    """
    goal = np.array(GOAL) if goal is None else goal
    way = pose[..., :2] - goal[..., :2] + rotated(CENTROID, pose[..., 2]) - rotated(CENTROID, goal[..., 2])
    turn = AREA_RADIUS * ((pose[..., 2] - goal[..., 2] + np.pi) % (2 * np.pi) - np.pi)
    return np.sqrt((way**2).sum(-1) + turn**2)
