"""The trotting expert of one env, and the same gone wrong."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Float32

from xp.envs.quadruped.env import QuadrupedEnv
from xp.envs.quadruped.gait import Gait, Trot, numbers_of
from xp.envs.quadruped.simulation import Simulation


class TrottingExpert:
    """Trots in an env; noise on its actions is drawn from `seed`."""

    def __init__(self, env: QuadrupedEnv, gait: Gait, *, noise: float = 0.0, seed: int = 0) -> None:
        self._env, self._noise = env, noise
        self._trot = Trot(numbers_of(gait), env.settings)
        self._draws = np.random.default_rng(seed)
        self.intended: Float32[np.ndarray, 12] = np.zeros(12, np.float32)
        """What was meant last, without the noise."""

    def reset(self, episode: int) -> None:
        """Nothing to remember: the gait follows the env's step number."""

    def act(self) -> Float32[np.ndarray, "12"]:
        """The next action."""
        state = np.asarray(self._env.observe()["observation.state"], np.float32)
        self.intended = self._trot.act(state[None], np.array([self._env.steps]))[0]
        if not self._noise:
            return self.intended
        return self.intended + self._draws.normal(0.0, self._noise, 12).astype(np.float32)


class TrottingExperts:
    """The same in all robots of a simulation: an `xp.envs.batch.BatchActor`."""

    def __init__(self, simulation: Simulation, gait: Gait) -> None:
        self._trot = Trot(numbers_of(gait), simulation.settings)
        self._step = np.full(simulation.count, -1, np.int64)

    def act(
        self,
        observation: Float32[np.ndarray, "N 33"],
        reward: Float[np.ndarray, " N"],
        begins: Bool[np.ndarray, " N"],
        *,
        executed: Float[np.ndarray, "N 12"] | None = None,
    ) -> Float32[np.ndarray, "N 12"]:
        """The next actions [N, 12]."""
        self._step = np.where(begins, 0, self._step + 1)
        return self._trot.act(observation, self._step)


def wrong_gait(gait: Gait, control: str) -> Gait:
    """The gait gone wrong in the way of one of the suite's `failing_experts`: its stride turned round, or none."""
    return replace(gait, stride=-gait.stride if control == "backwards" else 0.0)
