"""The agent's way to where a push begins, round the block; and commands that lead it along a way."""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from xp.envs.pusht.tee import AGENT_RADIUS, CORNERS, SIDE, distance, to_block, to_world

KEPT_CLEAR = 5.0
"""Between agent and block on the way, pixels."""
CORNER_CLEAR = 12.0
"""The same at the corners of a detour, which the agent rounds."""
SAMPLE = 6.0
"""Between the points at which a way is checked, pixels."""
LAG = 1.5
"""Control steps that the agent stays behind a moving command: k_v / k_p of gym-pusht's servo (20 / 100 s) at 10 Hz."""
RAMP = 3
"""Control steps in which a way begins and ends."""


def _detours() -> Float[np.ndarray, "n 2"]:
    """Points round the block, in its frame, by which a way may lead."""
    far = AGENT_RADIUS + CORNER_CLEAR
    convex = [0, 1, 2, 4, 5, 7]
    steps = np.array([[-1.0, -1], [1, -1], [1, 1], [1, 1], [-1, 1], [-1, 1]]) / np.sqrt(2)
    corners = CORNERS[convex] + far * 1.15 * steps
    pockets = np.array([[15 + far, 30 + far], [-15 - far, 30 + far]])
    return np.concatenate([corners, pockets])


DETOURS = _detours()


def way_round(
    pose: Float[np.ndarray, "3"], begin: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "points 2"]:
    """The shortest way from `begin` to `end` by corners round the block at which it is not touched.

    Where there is none the straight way is given: the block is then moved by the way, and the next plan begins there.
    """
    corners = to_world(pose, DETOURS)
    corners = corners[((corners > 0) & (corners < SIDE)).all(axis=1)]
    points = np.concatenate([begin[None], end[None], corners])
    ends = (to_block(pose, begin), to_block(pose, end))
    length = np.full(len(points), np.inf)
    length[0], via, open_points = 0.0, np.zeros(len(points), int), set(range(len(points)))
    inside = to_block(pose, points)
    while open_points:
        nearest = min(open_points, key=lambda index: length[index])
        open_points.remove(nearest)
        if nearest == 1 or not np.isfinite(length[nearest]):
            break
        others = np.array(sorted(open_points))
        reach = np.hypot(*(points[others] - points[nearest]).T) + length[nearest]
        better = (reach < length[others]) & _free(inside[nearest], inside[others], ends)
        length[others[better]], via[others[better]] = reach[better], nearest
    if not np.isfinite(length[1]):
        return np.stack([begin, end])
    chain = [1]
    while chain[-1] != 0:
        chain.append(int(via[chain[-1]]))
    return points[chain[::-1]]


def _free(
    begin: Float[np.ndarray, "2"],
    ends: Float[np.ndarray, "n 2"],
    known: tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]],
) -> Bool[np.ndarray, " n"]:
    """Whether straight ways in the block's frame keep clear of it; less is asked near both ends of the whole way."""
    number = int(np.ceil(np.hypot(*(ends - begin).T).max() / SAMPLE)) + 1
    samples = begin + (ends - begin) * np.linspace(0, 1, number + 1)[:, None, None]
    wanted = np.full(samples.shape[:2], AGENT_RADIUS + KEPT_CLEAR)
    for place in known:
        near = np.hypot(*np.moveaxis(samples - place, -1, 0))
        wanted = np.minimum(wanted, float(distance(place)) - 0.5 + 0.05 * near)
    clear: Bool[np.ndarray, " n"] = np.all(distance(samples) >= wanted, axis=0)
    return clear


def commands(points: Float[np.ndarray, "points 2"], speed: float) -> Float[np.ndarray, "steps 2"]:
    """Commands that lead the agent along a way, from rest to rest, at up to `speed` pixels a control step.

    gym-pusht's servo follows a point moving at v behind by v k_v / k_p, so each command lies that far ahead.
    """
    sides = np.hypot(*np.diff(points, axis=0).T)
    marks = np.concatenate([[0.0], np.cumsum(sides)])
    whole = marks[-1]
    travelled = _progress(whole, speed)
    ahead = travelled + LAG * np.diff(travelled, prepend=0.0)
    beyond = np.maximum(ahead - whole, 0.0)
    xy = np.stack([np.interp(ahead, marks, points[:, axis]) for axis in (0, 1)], axis=1)
    if whole > 0:
        last = next((b - a) / side for (a, b), side in zip(reversed(list(pairwise(points))), sides[::-1]) if side > 0)
        xy = xy + beyond[:, None] * last
    return np.clip(xy, 0.0, SIDE)


def _progress(whole: float, speed: float) -> Float[np.ndarray, " steps"]:
    """Distance travelled after each control step: a trapezoid of speeds that ends exactly at `whole`."""
    steps = max(RAMP + 1, int(np.ceil(whole / speed)) + RAMP)
    weight = np.minimum(np.minimum(np.arange(1, steps + 1), np.arange(steps, 0, -1)), RAMP).astype(float)
    return whole * np.cumsum(weight) / weight.sum()
