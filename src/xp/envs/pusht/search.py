"""Which pushes bring the block to its goal: beam search over straight pushes, then a local search for exact ones.

A push is where the agent begins, the heading it then keeps, and how far it goes. One simulation of a push gives the
outcome of all its lengths, so a beam of a few poses is extended by thousands of pushes in milliseconds
(`xp.envs.pusht.pushing`). The search knows the block's pose; it looks at no picture.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from xp.envs.pusht.pushing import STRIDE, pushed
from xp.envs.pusht.tee import (
    AGENT_RADIUS,
    CORNERS,
    SIDE,
    Numbers,
    distance,
    pose_error,
    rotated,
    to_block,
    to_world,
)

CLEARANCE = 8.0
"""Between the agent and the block where a push begins, pixels."""
SHORTEST, STRIDES = CLEARANCE + 1.5, 40
"""Shortest push in pixels (one that moves the block) and longest in strides."""
SPACING = 7.5
"""Between neighbouring contacts on the outline, pixels."""
TURNS = (-0.5, -0.2, 0.0, 0.2, 0.5)
"""Headings that are tried at each contact, radians from the outline's inward normal."""
DEPTH, BEAM = 3, 16
TRAVEL_SPEED, PUSH_SPEED = 20.0, 11.0
"""Pixels a control step, on the way to a push and in it."""
SETUP_STEPS = 8.0
"""Control steps that a push costs beside its way and length."""
DETOUR = 150.0
"""Pixels that a way costs more where the block is wholly in between."""
GOOD_ENOUGH = 1.2
"""Error at which nothing is left to gain, pixels; a coverage of 95% is reached at about 2.5."""
STEPS_PER_FOLD, STEPS_PER_PIXEL = 20.0, 0.5
"""What an error costs: so many control steps each time that it has to become a fold (e) smaller, and for each pixel."""
LEAST_MOVE = 15.0
"""A push moves the block at least so far, pixels, or half of its error where that is less."""
ROUNDS, SAMPLES, ELITES = 4, 128, 16
"""Of the local search."""
SPREAD = (3.0, 3.0, 0.08, 4.0)
"""Its first standard deviations: of the start (two, pixels), the heading (radians) and the length (pixels)."""


@dataclass(frozen=True)
class Push:
    """One straight push in the workspace: the agent goes from `start` along `heading` for `length` pixels."""

    start: Float[np.ndarray, "2"]
    heading: Float[np.ndarray, "2"]
    length: float

    @property
    def end(self) -> Float[np.ndarray, "2"]:
        """Where the agent stops."""
        return self.start + self.length * self.heading


@dataclass(frozen=True)
class Plan:
    """Pushes as numbers [depth, 4] that mean the same wherever the block lies when each begins.

    The start in the block's frame (2), the heading's angle in that frame, the length.
    """

    pushes: Float[np.ndarray, "depth 4"]
    steps: float
    """What it is taken to cost with all that remains after it, control steps."""

    def first(self, pose: Float[np.ndarray, "3"]) -> Push:
        """The first push, for a block that lies at `pose`."""
        x, y, angle, length = self.pushes[0]
        turn = angle + pose[2]
        return Push(to_world(pose, np.array([x, y])), np.array([np.cos(turn), np.sin(turn)]), float(length))


def _options() -> Float[np.ndarray, "n 3"]:
    """Start and angle of all pushes that are tried, in the block's frame."""
    found = []
    for begin, end in zip(CORNERS, np.roll(CORNERS, -1, axis=0)):
        side = float(np.hypot(*(end - begin)))
        along = (end - begin) / side
        inward = np.array([-along[1], along[0]])
        number = int(side // SPACING)
        for share in (np.arange(number) + 0.5) / number:
            for turn in TURNS:
                heading = rotated(inward, turn)
                start = begin + share * (end - begin) - AGENT_RADIUS * inward - CLEARANCE * heading
                found.append([*start, np.arctan2(heading[1], heading[0])])
    options = np.array(found)
    return options[distance(options[:, :2]) >= AGENT_RADIUS + 2]


OPTIONS = _options()


def remaining_steps(error: Numbers) -> Numbers:
    """[*batch]: control steps that mending an error of so many pixels is taken to cost."""
    left = np.maximum(error / GOOD_ENOUGH, 1.0)
    return STEPS_PER_FOLD * np.log(left) + STEPS_PER_PIXEL * GOOD_ENOUGH * (left - 1.0)


def travel_steps(
    start: Float[np.ndarray, "*batch 2"], agent: Float[np.ndarray, "*batch 2"], pose: Float[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch"]:
    """Control steps to the start of a push: the straight way, longer where the block is in between."""
    way = start - agent
    between = [distance(to_block(pose, agent + share * way)) < AGENT_RADIUS for share in (0.2, 0.35, 0.5, 0.65, 0.8)]
    return (np.hypot(way[..., 0], way[..., 1]) + DETOUR * np.mean(between, axis=0)) / TRAVEL_SPEED + SETUP_STEPS


def search(
    pose: Float[np.ndarray, "3"],
    agent: Float[np.ndarray, "2"],
    goal: Float[np.ndarray, "3"],
    before: Float[np.ndarray, "_ 4"] | None = None,
) -> Plan:
    """The cheapest sequence of pushes found.

    Args:
        pose: of the block.
        agent: where the agent is.
        goal: the pose to reach.
        before: pushes of an earlier plan that are still to be made; they compete.
    """
    beam = _Beam(pose[None], agent[None], np.zeros(1), np.zeros((1, 0, 4)))
    best: Plan | None = None
    arrives = False
    for _ in range(DEPTH):
        beam, totals, done = _extended(beam, goal)
        if not len(totals):
            break
        # A shorter sequence is worth its price only if it arrives: what remains after it is only an estimate.
        if best is None or totals[0] < best.steps or not arrives:
            best, arrives = Plan(beam.plan[0], float(totals[0])), bool(done[0])
    if before is not None and len(before):
        earlier = Plan(before, float(_steps(pose, agent, goal, before[None])[0]))
        best = earlier if best is None or earlier.steps < best.steps else best
    if best is None:
        return Plan(np.array([[*to_block(pose, agent), 0.0, SHORTEST]]), np.inf)
    return _refined(pose, agent, goal, best)


@dataclass
class _Beam:
    """Sequences of pushes: where each has led, what it has cost, and its pushes as in `Plan`."""

    pose: Float[np.ndarray, "n 3"]
    agent: Float[np.ndarray, "n 2"]
    cost: Float[np.ndarray, " n"]
    plan: Float[np.ndarray, "n depth 4"]


def _extended(beam: _Beam, goal: Float[np.ndarray, "3"]) -> tuple[_Beam, Float[np.ndarray, " n"], np.ndarray]:
    """The best sequences of one push more, best first; what each costs to the end, and whether it arrives."""
    nodes = len(beam.pose)
    parent, option = np.repeat(np.arange(nodes), len(OPTIONS)), np.tile(OPTIONS, (nodes, 1))
    start, angle = to_world(beam.pose[parent], option[:, :2]), option[:, 2] + beam.pose[parent, 2]
    inside = ((start > 1) & (start < SIDE - 1)).all(axis=1)
    parent, option, start, angle = parent[inside], option[inside], start[inside], angle[inside]
    pose, heading = beam.pose[parent], np.stack([np.cos(angle), np.sin(angle)], axis=1)
    trail = pushed(pose, start, heading, STRIDES)
    lengths = STRIDE * np.arange(1, STRIDES + 1)
    stop = start + heading * lengths[:, None, None]
    allowed = ((stop > 1) & (stop < SIDE - 1)).all(-1) & (lengths >= SHORTEST)[:, None]
    allowed &= _moves(pose, trail, goal)
    cost = beam.cost[parent] + travel_steps(start, beam.agent[parent], pose) + lengths[:, None] / PUSH_SPEED
    rest = np.asarray(remaining_steps(pose_error(trail, goal)))
    total = np.where(allowed, cost + rest, np.inf)
    length = np.argpartition(total, 1, axis=0)[:2].ravel()
    push = np.tile(np.arange(total.shape[1]), 2)
    order = np.argsort(total[length, push])[: BEAM * 4]
    order = order[np.isfinite(total[length[order], push[order]])]
    order = order[_distinct(trail[length[order], push[order]], BEAM)]
    length, push = length[order], push[order]
    row = np.concatenate([option[push], lengths[length][:, None]], axis=1)
    plan = np.concatenate([beam.plan[parent[push]], row[:, None]], axis=1)
    after = _Beam(trail[length, push], stop[length, push], cost[length, push], plan)
    return after, total[length, push], rest[length, push] == 0


def _moves(
    before: Float[np.ndarray, "n 3"], after: Float[np.ndarray, "*lead n 3"], goal: Float[np.ndarray, "3"]
) -> Bool[np.ndarray, "*lead n"]:
    """Whether pushes move the block far enough to be worth their name (`LEAST_MOVE`)."""
    return pose_error(after, before) >= np.minimum(LEAST_MOVE, pose_error(before, goal) / 2)


def _distinct(poses: Float[np.ndarray, "n 3"], limit: int) -> Int[np.ndarray, " kept"]:
    """Indices of the first `limit` poses that differ from each other by more than a pixel."""
    keep: list[int] = []
    marks = poses * [1.0, 1.0, 44.0]
    for index, mark in enumerate(marks):
        if not keep or (np.abs(marks[keep] - mark).max(axis=1) > 1.0).all():
            keep.append(index)
        if len(keep) == limit:
            break
    return np.array(keep, int)


def _refined(
    pose: Float[np.ndarray, "3"], agent: Float[np.ndarray, "2"], goal: Float[np.ndarray, "3"], best: Plan
) -> Plan:
    """The same pushes with exact starts, headings and lengths, by the cross-entropy method.

    (Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", 1999: sample around a mean,
    move mean and deviation to those of the best samples, again.) The draws are always the same.
    """
    draw = np.random.default_rng(0)
    mean, spread = best.pushes, np.tile(SPREAD, (len(best.pushes), 1))
    for _ in range(ROUNDS):
        tried = mean + spread * draw.standard_normal((SAMPLES, *mean.shape))
        tried[..., 3] = np.maximum(tried[..., 3], SHORTEST)
        tried[0] = mean
        steps = _steps(pose, agent, goal, tried)
        order = np.argsort(steps)[:ELITES]
        if steps[order[0]] < best.steps:
            best = Plan(tried[order[0]], float(steps[order[0]]))
        mean, spread = tried[order].mean(axis=0), tried[order].std(axis=0) + 1e-3
    return best


def _steps(
    pose: Float[np.ndarray, "3"],
    agent: Float[np.ndarray, "2"],
    goal: Float[np.ndarray, "3"],
    plans: Float[np.ndarray, "n depth 4"],
) -> Float[np.ndarray, " n"]:
    """What each plan is taken to cost to the end, control steps; infinite where it cannot be made."""
    now, at, cost = np.tile(pose, (len(plans), 1)), np.tile(agent, (len(plans), 1)), np.zeros(len(plans))
    for push in plans.transpose(1, 0, 2):
        start, angle, length = to_world(now, push[:, :2]), push[:, 2] + now[:, 2], push[:, 3]
        heading = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        stop = start + heading * length[:, None]
        possible = ((start > 0) & (start < SIDE) & (stop > 0) & (stop < SIDE)).all(axis=1)
        possible &= distance(push[:, :2]) >= AGENT_RADIUS + 1
        cost = np.where(possible, cost + travel_steps(start, at, now) + length / PUSH_SPEED, np.inf)
        strides = int(np.ceil(length.max() / STRIDE))
        before, now = now, pushed(now, start, heading * (length / strides)[:, None], strides, 1.0)[-1]
        cost, at = np.where(_moves(before, now, goal), cost, np.inf), stop
    return cost + remaining_steps(pose_error(now, goal))
