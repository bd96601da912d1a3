"""Closed-loop success as an objective: what a policy is for, without a gradient and at the price of episodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xp.envs.rollout import rollout
from xp.merging.method import without_gradient
from xp.tasks._lib.recorders import EnvMaker, fit_suite, refuse_long_chunk

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.models.policy import Policy

FIRST_SEED = 2_000_000
"""Initial states of their own: those of task=collect and task=eval begin at 0 and 1,000,000."""


@dataclass(kw_only=True)
class Success:
    """An `xp.merging.objective.Objective`: the share of failed episodes, always from the same initial states."""

    policy: "Policy"
    tasks: tuple[str, ...]
    envs: EnvMaker
    episodes: int
    chunk_steps: int
    execution: str
    seed: int
    name: str

    @classmethod
    def of(cls, config: "DictConfig", policy: "Policy", where: str) -> "Success":
        """From the sections `env`, `eval` (episodes per task) and `chunk_size`."""
        cameras = {name: (height, width) for name, (height, width, _) in policy.spec.cameras.items()}
        envs = EnvMaker.of(config.env, cameras, environment_state=bool(policy.spec.environment_dim))
        fit_suite(policy, envs.suite)
        refuse_long_chunk(config, policy, where)
        episodes, tasks = config.eval.episodes, tuple(config.env.tasks)
        return cls(
            policy=policy,
            tasks=tasks,
            envs=envs,
            episodes=episodes,
            chunk_steps=config.chunk_size.steps,
            execution=config.chunk_size.execution,
            seed=config.seed,
            name=f"share of failed episodes ({episodes} from each of {len(tasks)} tasks)",
        )

    def loss(self, weights: Mapping[str, np.ndarray]) -> float:
        """1 - success rate."""
        policy = self.policy.with_weights(weights)
        outcomes = [
            episode.success
            for task in self.tasks
            for episode in rollout(
                self.envs.make(task),
                lambda batch: policy.predict(batch, seed=self.seed),
                seeds=range(FIRST_SEED, FIRST_SEED + self.episodes),
                chunk_steps=self.chunk_steps,
                execution=self.execution,
                history=policy.spec.history,
            )
        ]
        return 1.0 - float(np.mean(outcomes))

    def loss_and_gradient(self, weights: Mapping[str, np.ndarray]) -> tuple[float, Mapping[str, np.ndarray]]:
        """Success is a count: it has no gradient.

        Raises:
            UserError: always, naming methods that work.
        """
        raise without_gradient(self.name)
