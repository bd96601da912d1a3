"""Closed-loop success as the objective of a merge: the share of failed episodes, which has no gradient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import OmegaConf

from xp.envs.evaluate import evaluate, first_queries
from xp.envs.maker import EnvMaker
from xp.envs.pool import Asked, EnvPool
from xp.merging.method import without_gradient
from xp.models.acting import BatchedPolicy
from xp.tasks._lib.recorders import BATCH, fit_suite, policy_pool, refuse_long_chunk, worker_count

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.models.policy import Policy

FIRST_SEED = 2_000_000
"""Initial states of their own: those of task=collect and task=eval begin at 0 and 1,000,000."""


@dataclass(kw_only=True)
class Success:
    """An `xp.merging.objective.Objective`: the share of failed episodes, always from the same initial states.

    The envs are those of the first loss that is asked for; they end with this object.
    """

    policy: "Policy"
    tasks: tuple[str, ...]
    episodes: int
    open_envs: Callable[[], EnvPool]
    seed: int
    name: str
    _pool: EnvPool | None = field(default=None, init=False)

    @classmethod
    def of(cls, config: "DictConfig", policy: "Policy", where: str) -> "Success":
        """From the sections `env`, `eval` (episodes per task) and `chunk_size`."""
        cameras = {name: (height, width) for name, (height, width, _) in policy.spec.cameras.items()}
        envs = EnvMaker.of(config.env, cameras, environment_state=bool(policy.spec.environment_dim))
        fit_suite(policy, envs.suite, "merge.camera_map")
        refuse_long_chunk(config, policy, where)
        episodes, tasks = config.eval.episodes, tuple(config.env.tasks)
        total = episodes * len(tasks)

        def open_envs() -> EnvPool:
            return policy_pool(
                envs,
                policy,
                steps=config.chunk_size.steps,
                execution=config.chunk_size.execution,
                delay=config.chunk_size.delay,
                workers=worker_count(OmegaConf.select(config, "eval.workers"), total),
                batch=BATCH,
                episodes=total,
            )

        return cls(
            policy=policy,
            tasks=tasks,
            episodes=episodes,
            open_envs=open_envs,
            seed=config.seed,
            name=f"share of failed episodes ({episodes} from each of {len(tasks)} tasks)",
        )

    def loss(self, weights: Mapping[str, np.ndarray]) -> float:
        """1 - success rate."""
        if self._pool is None:
            self._pool = self.open_envs()
        answer = BatchedPolicy(self.policy.with_weights(weights), seed=self.seed, batch=BATCH)
        asked = [Asked(task, FIRST_SEED + number) for task in self.tasks for number in range(self.episodes)]
        answer.settle(first_queries(self._pool, asked[:1]))
        return 1.0 - float(np.mean([result.success for result in evaluate(self._pool, asked, answer)]))

    def loss_and_gradient(self, weights: Mapping[str, np.ndarray]) -> tuple[float, Mapping[str, np.ndarray]]:
        """Success is a count: it has no gradient.

        Raises:
            UserError: always, naming methods that work.
        """
        raise without_gradient(self.name)
