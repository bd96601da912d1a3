"""A suite without a simulator, for worker processes to import: a number that drifts, and episodes that go wrong."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from xp.envs.suite import StepResult
from xp.errors import UserError


class DriftEnv:
    """A chaotic map (the logistic one at r = 3.9) pushed by the actions: any other bit of an action shows at once.

    What happens in an episode follows from its task: `drift` nothing else; `slow` a pause a step; `die` the process is
    killed at step 3 of initial state 5; `die_once` so too, but only if the file `marker` is not there yet; `hang_once`
    it sleeps for an hour instead; `refuse` a `UserError`.
    """

    action_low, action_high = np.full(2, -1.0), np.full(2, 1.0)
    fps, max_steps = 10, 9

    def __init__(self, task, marker, cameras):
        self.task, self.language, self.cameras, self._marker = task, f"go {task}", dict(cameras), marker
        self.steps, self._seed, self._at = 0, 0, np.zeros(2)

    def reset(self, seed):
        self.steps, self._seed = 0, seed
        self._at = np.random.default_rng(seed).uniform(0.2, 0.8, 2)
        return self.observe()

    def step(self, action):
        self.steps += 1
        if self.task == "slow":
            time.sleep(0.05)
        self._go_wrong()
        pushed = np.clip(self._at + 0.05 * np.asarray(action, np.float64), 0.01, 0.99)
        self._at = 3.9 * pushed * (1 - pushed)
        success = bool(self.steps > 3 and self._at[0] > 0.9)
        return StepResult(self.observe(), success, success or self.steps == self.max_steps)

    def observe(self):
        shown = (self._at * 255).astype(np.uint8)
        pictures = {f"observation.images.{name}": np.resize(shown, (*size, 3)) for name, size in self.cameras.items()}
        return {**pictures, "observation.state": self._at.astype(np.float32), "task": self.language}

    def _go_wrong(self):
        if self.steps != 3 or self._seed != 5:
            return
        if self.task == "refuse":
            raise UserError("This episode is refused. Type another seed.")
        if self.task == "hang_once" and not Path(self._marker).exists():
            Path(self._marker).touch()
            time.sleep(3600)
        if self.task == "die" or (self.task == "die_once" and not Path(self._marker).exists()):
            Path(self._marker).touch()
            print("the simulator has lost its mind", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DriftSuite:
    """The suite; `frameworks` says whether a process with torch or jax may make its envs."""

    marker: str = ""
    frameworks: bool = True

    name: ClassVar = "drift"
    tasks: ClassVar = {name: f"go {name}" for name in ("drift", "slow", "die", "die_once", "hang_once", "refuse")}

    def make(self, task, *, cameras, environment_state=False):
        assert self.frameworks or not {"torch", "jax", "lerobot", "xp.models"} & set(sys.modules), "no light process"
        return DriftEnv(task, self.marker, cameras)
