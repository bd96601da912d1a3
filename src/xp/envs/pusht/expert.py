"""The expert of PushT: plans pushes from the block's pose, goes round the block to each, and plans again after it."""

from collections import deque

import numpy as np
from jaxtyping import Float32

from xp.envs.pusht.env import PushtEnv
from xp.envs.pusht.paths import commands, way_round
from xp.envs.pusht.search import PUSH_SPEED, TRAVEL_SPEED, Plan, search
from xp.envs.pusht.tee import GOAL

SETTLE = 2
"""Control steps in which the agent comes to rest after a push, before the next is planned."""


class PushExpert:
    """Pushes the block to a goal. An `Actor` of a `PushtEnv`, deterministic but for its noise.

    Args:
        env: the env that it acts in and whose block it knows.
        noise: standard deviation of what is added to each action, pixels.
        seed: of the noise.
        goal: the pose that it wants; the env's own by default.
    """

    def __init__(self, env: PushtEnv, *, noise: float = 0.0, seed: int = 0, goal: tuple[float, float, float] = GOAL):
        self._env, self._noise, self._seed, self._goal = env, noise, seed, np.array(goal)
        self.reset(0)

    def reset(self, episode: int) -> None:
        """Forget the last plan; draws anew in each episode."""
        self._draw = np.random.default_rng([self._seed, episode])
        self._plan: Plan | None = None
        self._ahead: deque[np.ndarray] = deque()

    def act(self) -> Float32[np.ndarray, "2"]:
        """The next command: a point of the workspace, pixels."""
        if not self._ahead:
            self._ahead.extend(self._next_push())
        command = self._ahead.popleft()
        if self._noise:
            command = command + self._noise * self._draw.standard_normal(2)
        return np.clip(command, self._env.action_low, self._env.action_high).astype(np.float32)

    def _next_push(self) -> list[np.ndarray]:
        """Commands that lead to the start of the best push, through it, and to rest."""
        pose, agent = self._env.block_pose(), self._env.agent_position()
        before = None if self._plan is None else self._plan.pushes[1:]
        self._plan = search(pose, agent, self._goal, before)
        push = self._plan.first(pose)
        way = way_round(pose, agent, push.start)
        there = commands(way, TRAVEL_SPEED)
        through = commands(np.stack([push.start, push.end]), PUSH_SPEED)
        return [*there, *through, *[push.end] * SETTLE]


def wrong_goal(control: str) -> tuple[float, float, float]:
    """The goal of an expert gone wrong, as `xp.envs.pusht.options.FAILING_EXPERTS` names them."""
    x, y, angle = GOAL
    return {"upside_down": (x, y, angle + np.pi), "beside": (x + 60.0, y, angle)}[control]
