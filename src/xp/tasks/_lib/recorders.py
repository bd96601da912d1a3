"""Records episodes of a simulated suite, by its scripted expert or by a policy, and makes the envs for a policy's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xp.envs import Episode, Suite, collect_episode
from xp.envs.evaluate import evaluate, first_queries, open_pool
from xp.envs.maker import EnvMaker
from xp.envs.pool import Asked, EnvPool
from xp.envs.pool_processes import SILENCE_S
from xp.envs.rollout import Execution
from xp.errors import UserError, join_names
from xp.models.acting import BatchedPolicy
from xp.tasks._lib.loading import fit_cameras
from xp.tasks._lib.pools import workers_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.models.policy import Policy

OnStep = Callable[[int, int], None]
"""Called after each control step with (seed, step); what it raises ends the episode."""
Recorder = Callable[..., Episode]
BATCH = 8
"""Queries that are answered together where `eval.batch` is not asked: on two CPU cores an octo_tiny answers eight in
twice the time of one, an ACT in less than three times that."""
LEAST = 4
"""The fewest episodes for which one more process is worth its start."""


@dataclass(frozen=True)
class ExpertRecorder:
    """Records the suite's scripted expert; can be sent to another process."""

    envs: EnvMaker
    noise: float = 0.0
    label: str = "executed"

    def __call__(self, task: str, seed: int, on_step: OnStep | None = None) -> Episode:
        """The expert's episode from initial state `seed`; `on_step` as in `collect_episode`."""
        env = self.envs.make(task)
        expert = self.envs.suite.expert(env, noise=self.noise, seed=seed)
        return collect_episode(env, expert, seed, on_step=on_step, label=self.label)


@dataclass(frozen=True)
class PolicyRecorder:
    """Records a policy: its episodes side by side, its queries answered together."""

    policy: "Policy"
    envs: EnvMaker
    chunk_steps: int
    execution: str
    delay: int
    seed: int
    workers: int

    @classmethod
    def load(cls, config: "DictConfig", envs: EnvMaker) -> "PolicyRecorder":
        """The policy folder `collect.policy`, executed as the `chunk_size` section says."""
        policy = load_acting_policy(config, config.collect.policy, config.collect)
        known = set(policy.spec.cameras) <= set(envs.suite.camera_names)  # then env.cameras is what is to be changed
        key = None if known else "collect.camera_map"
        fit_cameras(policy, [name for name, _ in envs.cameras], "env.cameras", key)
        _fit_environment(policy, envs.suite, envs.environment_state, "env.environment_state=false")
        _fit_numbers(policy, envs.suite)
        workers = worker_count(config.collect.workers, config.collect.episodes)
        how = config.chunk_size
        return cls(policy, envs, how.steps, how.execution, how.delay, config.seed, workers)

    def episodes(self, task: str, seeds: Sequence[int], leave_when_asked: Callable[[], None]) -> Iterator[Episode]:
        """The policy's episodes from `seeds`, in their order; `leave_when_asked` raises to end them."""
        answer = BatchedPolicy(self.policy, seed=self.seed, batch=BATCH)
        pool = policy_pool(
            self.envs,
            self.policy,
            steps=self.chunk_steps,
            execution=self.execution,
            delay=self.delay,
            workers=self.workers,
            batch=BATCH,
            episodes=len(seeds),
            on_step=lambda *_: leave_when_asked(),
        )
        ended: dict[int, Episode] = {}
        with closing(pool):
            answer.settle(first_queries(pool, [Asked(task, seeds[0])], leave_when_asked))
            order = iter(seeds)
            due = next(order, None)
            asked = [Asked(task, seed, record=True) for seed in seeds]
            for result in evaluate(pool, asked, answer, on_wait=leave_when_asked):
                assert result.recorded is not None
                ended[result.seed] = result.recorded
                while due in ended:
                    yield ended.pop(due)
                    due = next(order, None)


def worker_count(asked: int | None, episodes: int) -> int:
    """Processes that simulate: as many as are asked for, else one a core, for at least `LEAST` episodes each."""
    return asked or max(1, min(workers_of(None), episodes // LEAST))


def policy_pool(
    envs: EnvMaker,
    policy: "Policy",
    *,
    steps: int,
    execution: str,
    delay: int,
    workers: int,
    batch: int,
    episodes: int,
    places: int | None = None,
    on_step: OnStep | None = None,
    silence_s: float = SILENCE_S,
) -> EnvPool:
    """Envs for the episodes of a policy; see `xp.envs.evaluate.open_pool`.

    Args:
        envs: what makes them.
        policy: who will act.
        steps: actions executed of each chunk, or chunks averaged.
        execution: one of `xp.envs.rollout.EXECUTIONS`.
        delay: control steps that an answer takes (`real_time`).
        workers: processes that simulate.
        batch: queries that are answered together.
        episodes: how many there will be: no more envs are made.
        places: envs side by side; None leaves that to `open_pool`.
        on_step: what an env of this process calls after each control step with (seed, step).
        silence_s: seconds after which a worker that says nothing is taken for hung.
    """
    spec = policy.spec
    told = spec.prefix_past or 1
    how = Execution(chunk_steps=steps, name=execution, history=spec.history, remembered=told, delay=delay)
    return open_pool(
        envs,
        how,
        workers=workers,
        batch=batch,
        episodes=episodes,
        places=places,
        on_step=on_step,
        silence_s=silence_s,
    )


def load_acting_policy(config: "DictConfig", path: str, told: Mapping[str, Any]) -> "Policy":
    """Load a policy as a section says (see `xp.tasks._lib.loading.load`) and check that the chunk fits its horizon."""
    from xp.tasks._lib.loading import load

    policy = load(config, path, told)
    refuse_long_chunk(config, policy, path)
    return policy


def fit_suite(policy: "Policy", suite: Suite, key: str | None = None) -> None:
    """Refuse a policy that looks at what the suite does not have; `key` maps its cameras, as for `fit_cameras`."""
    fit_cameras(policy, list(suite.camera_names), "the suite", key)
    _fit_numbers(policy, suite)
    _fit_environment(policy, suite, True, "the suite")


def _fit_numbers(policy: "Policy", suite: Suite) -> None:
    """Refuse a policy whose actions or state have another width than the suite's."""
    spec, actions, state = policy.spec, suite.action_names, suite.state_names
    if spec.action_dim != len(actions):
        raise UserError(
            f"The policy gives {spec.action_dim} numbers as an action; the suite {suite.name} takes {len(actions)} "
            f"({join_names(actions)}). Take a policy trained on a dataset of this suite: xp task=collect "
            f"env={suite.name} data.root=FOLDER records one."
        )
    if spec.state_dim and spec.state_dim != len(state):
        raise UserError(
            f"The policy reads a state of {spec.state_dim} numbers; the suite {suite.name} gives {len(state)} "
            f"({join_names(state)}). Take a policy trained on a dataset of this suite, or one that reads no state."
        )


def _fit_environment(policy: "Policy", suite: Suite, given: bool, where: str) -> None:
    """Refuse a policy that reads another environment state than there is."""
    wanted, names = policy.spec.environment_dim, suite.environment_state_names
    if wanted and not given:
        raise UserError(
            f"The policy reads observation.environment_state, which {where} does not give. Type "
            "env.environment_state=true, or take a policy that reads cameras only."
        )
    if wanted and wanted != len(names):
        raise UserError(
            f"The policy reads {wanted} numbers of observation.environment_state; {where} gives {len(names)} "
            f"({join_names(names)}). Take a policy trained on a dataset recorded with env.environment_state=true."
        )


def refuse_long_chunk(config: "DictConfig", policy: "Policy", path: str) -> None:
    """Refuse chunks that are longer than the policy's horizon, and answers that come after its last action."""
    steps, delay, horizon = config.chunk_size.steps, config.chunk_size.delay, policy.spec.horizon
    if steps > horizon:
        raise UserError(
            f"chunk_size.steps={steps} exceeds the horizon {horizon} that {path} was "
            f"trained on. Give chunk_size.steps=1..{horizon}"
        )
    if steps + delay > horizon:
        raise UserError(
            f"chunk_size.steps={steps} and chunk_size.delay={delay}: {delay} more actions are executed while the next "
            f"chunk is computed, and {path} predicts {horizon}. Give numbers that sum to at most {horizon}."
        )
