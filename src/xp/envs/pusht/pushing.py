"""What a push does to the block, for thousands of pushes at once: the physics of gym-pusht without its engine.

gym-pusht damps all motion away between two steps of its engine and its contacts have no friction, so the block moves
only as far as the agent (of infinite mass) displaces it: each contact moves it by the least that ends the overlap,
measured by its mass and moment of inertia. That is one position-based contact step (Müller et al., "Position Based
Dynamics", 2007, section 3.3) for a rigid body: an overlap of depth d along the normal n at the arm r from the centre of
mass is ended by the shift d n / (1 + (r x n)^2 / k^2) and the turn (r x n) / k^2 times that, k^2 being
`GYRATION_SQUARED`.
"""

import numpy as np
from jaxtyping import Float

from xp.envs.pusht.tee import AGENT_RADIUS, CORNERS, GYRATION_SQUARED, MASS_CENTRE, RECTANGLES, SIDE, WALL, rotated

STRIDE = 3.0
"""How far the agent moves between two contact steps, pixels."""
_REACH = float(np.hypot(*(CORNERS - MASS_CENTRE).T).max())
"""The farthest point of the block from its centre of mass."""


def pushed(
    pose: Float[np.ndarray, "n 3"],
    agent: Float[np.ndarray, "n 2"],
    heading: Float[np.ndarray, "n 2"],
    strides: int,
    stride: float = STRIDE,
) -> Float[np.ndarray, "strides n 3"]:
    """The block's pose [strides, n, 3] after each stride of agents that go straight ahead.

    Args:
        pose: of the block before the push.
        agent: where each agent begins.
        heading: unit vectors that they go along.
        strides: how many.
        stride: length of one, pixels.
    """
    angle = pose[:, 2].copy()
    centre = pose[:, :2] + rotated(np.broadcast_to(MASS_CENTRE, agent.shape), angle)
    x, y = centre[:, 0].copy(), centre[:, 1].copy()
    trail = np.empty((strides, len(pose), 3))
    for index in range(strides):
        at = agent + heading * (stride * (index + 1))
        for box in RECTANGLES:
            _end_overlap(x, y, angle, at, box)
        if _near_walls(x, y):
            _keep_inside(x, y, angle)
        trail[index, :, 0] = x - np.cos(angle) * MASS_CENTRE[0] + np.sin(angle) * MASS_CENTRE[1]
        trail[index, :, 1] = y - np.sin(angle) * MASS_CENTRE[0] - np.cos(angle) * MASS_CENTRE[1]
        trail[index, :, 2] = angle
    return trail


def _end_overlap(x: np.ndarray, y: np.ndarray, angle: np.ndarray, agent: np.ndarray, box: np.ndarray) -> None:
    """Move the blocks (in place) until their rectangle `box` does not overlap the agents."""
    left, top, right, bottom = box - np.tile(MASS_CENTRE, 2)
    cosine, sine = np.cos(angle), np.sin(angle)
    away_x, away_y = agent[:, 0] - x, agent[:, 1] - y
    u, v = cosine * away_x + sine * away_y, cosine * away_y - sine * away_x
    arm_u, arm_v = np.clip(u, left, right), np.clip(v, top, bottom)
    normal_u, normal_v = arm_u - u, arm_v - v
    gap = np.sqrt(normal_u * normal_u + normal_v * normal_v)
    depth = np.where(gap > 1e-9, np.maximum(AGENT_RADIUS - gap, 0.0), 0.0)
    if not depth.any():
        return
    gap = np.maximum(gap, 1e-9)
    normal_u, normal_v = normal_u / gap, normal_v / gap
    _displace(x, y, angle, cosine * normal_u - sine * normal_v, sine * normal_u + cosine * normal_v,
              arm_u * normal_v - arm_v * normal_u, depth)  # fmt: skip


def _near_walls(x: np.ndarray, y: np.ndarray) -> bool:
    least, most = WALL + _REACH, SIDE - WALL - _REACH
    return bool(min(x.min(), y.min()) < least or max(x.max(), y.max()) > most)


def _keep_inside(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> None:
    """Move the blocks (in place) so that the corner farthest beyond each wall touches it."""
    for axis, sign in ((0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)):
        arms = rotated((CORNERS - MASS_CENTRE)[None], angle[:, None])
        place = (x, y)[axis]
        inside = sign * (place[:, None] + arms[..., axis]) - (WALL if sign > 0 else -(SIDE - WALL))
        worst = inside.argmin(axis=1)
        depth = np.maximum(-np.take_along_axis(inside, worst[:, None], 1)[:, 0], 0.0)
        if depth.any():
            arm = np.take_along_axis(arms, worst[:, None, None], 1)[:, 0]
            normal = np.zeros(2)
            normal[axis] = sign
            moment = arm[:, 0] * normal[1] - arm[:, 1] * normal[0]
            _displace(x, y, angle, normal[0], normal[1], moment, depth)


def _displace(x, y, angle, normal_x, normal_y, moment, depth) -> None:
    """Shift and turn the blocks (in place) so that the contact point moves by `depth` along the normal."""
    shift = depth / (1.0 + moment * moment / GYRATION_SQUARED)
    x += normal_x * shift
    y += normal_y * shift
    angle += moment / GYRATION_SQUARED * shift
