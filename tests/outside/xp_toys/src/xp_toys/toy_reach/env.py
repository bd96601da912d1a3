"""The simulation of `toy_reach`: a point that moves at a bounded speed, drawn as squares on a grey floor."""

import numpy as np

from xp.envs import StepResult
from xp.errors import UserError

SPEED = 0.25
"""The most that the point moves in one step, in each direction."""


class ReachEnv:
    """One task. The goal is told by the picture alone."""

    action_low, action_high = np.full(2, -1.0), np.full(2, 1.0)

    def __init__(self, task, suite, cameras):
        self.task, self.language, self.cameras = task, suite.tasks[task], dict(cameras)
        self.fps, self.max_steps, self.radius = suite.fps, suite.max_steps or 20, suite.radius
        self.steps, self.place, self.goal = 0, np.zeros(2), np.zeros(2)

    def reset(self, seed):
        """Place and goal are drawn from the seed."""
        draw = np.random.default_rng(seed)
        self.steps, self.place, self.goal = 0, draw.uniform(-0.9, 0.9, 2), draw.uniform(-0.9, 0.9, 2)
        return self.observe()

    def step(self, action):
        """Move towards `action` [2]."""
        action = np.asarray(action, float)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise UserError(f"An action of toy_reach is 2 finite numbers; given is {action}.")
        self.steps += 1
        wanted = np.clip(action, self.action_low, self.action_high)
        self.place = self.place + np.clip(wanted - self.place, -SPEED, SPEED)
        distance = np.abs(self.place - self.goal).max()
        success = bool(distance < self.radius if self.task == "reach" else distance > 1.0)
        return StepResult(self.observe(), success, success or self.steps >= self.max_steps)

    def observe(self):
        """The place and what each camera sees."""
        pictures = {f"observation.images.{name}": self._picture(*size) for name, size in self.cameras.items()}
        return {**pictures, "observation.state": self.place.astype(np.float32), "task": self.language}

    def _picture(self, height, width):
        picture = np.full((height, width, 3), 90, np.uint8)
        for (x, y), colour in ((self.place, (40, 40, 230)), (self.goal, (230, 40, 40))):
            row, column = int((y + 1) / 2 * (height - 1)), int((x + 1) / 2 * (width - 1))
            near = max(2, height // 12)
            picture[max(0, row - near) : row + near + 1, max(0, column - near) : column + near + 1] = colour
        return picture


class ReachExpert:
    """Knows the goal. `sign` -1 mirrors what it wants."""

    def __init__(self, env, *, noise=0.0, seed=0, sign=1):
        self.env, self.noise, self.seed, self.sign = env, noise, seed, sign

    def reset(self, episode):
        """Draws anew in each episode."""
        self.draw = np.random.default_rng([self.seed, episode])

    def act(self):
        """The goal, or for the task `avoid` the corner farthest from it."""
        goal = self.env.goal if self.env.task == "reach" else -np.where(self.env.goal < 0, -1.0, 1.0)
        return (self.sign * goal + self.noise * self.draw.standard_normal(2)).astype(np.float32)
