"""Who acts in a simulated suite: its scripted expert or a policy, as functions (task, seed) -> recorded episode."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from xp.envs import Env, Episode, Suite, collect_episode, suite_of
from xp.envs.rollout import Ensembling, History, Receding
from xp.errors import UserError, join_names
from xp.tasks._lib.loading import fit_cameras

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.models.policy import Policy

OnStep = Callable[[int, int], None]
"""Called after each control step with (seed, step); what it raises ends the episode."""
Recorder = Callable[..., Episode]


@dataclass(frozen=True)
class EnvMaker:
    """Makes the envs of a suite as one job wants them. Can be sent to another process, which makes each env once."""

    suite: Suite
    cameras: tuple[tuple[str, tuple[int, int]], ...]
    """Camera names with their (height, width)."""
    environment_state: bool

    @classmethod
    def of(
        cls, env: "DictConfig", cameras: Mapping[str, Sequence[int]] | None = None, *, environment_state: bool
    ) -> "EnvMaker":
        """From the `env` section; `cameras` (name to height, width) stand for its own.

        Raises:
            UserError: as `xp.envs.suite_of`.
        """
        sizes = (env.cameras if cameras is None else cameras).items()
        seen = tuple((str(name), (int(height), int(width))) for name, (height, width) in sizes)
        return cls(suite_of(env), seen, environment_state)

    def make(self, task: str) -> Env:
        """The env of a task; the same one for equal arguments in one process."""
        return _make(self, task)


@lru_cache(maxsize=16)
def _make(maker: EnvMaker, task: str) -> Env:
    return maker.suite.make(task, cameras=dict(maker.cameras), environment_state=maker.environment_state)


@dataclass(frozen=True)
class ExpertRecorder:
    """Records the suite's scripted expert; can be sent to another process."""

    envs: EnvMaker
    noise: float = 0.0

    def __call__(self, task: str, seed: int, on_step: OnStep | None = None) -> Episode:
        """The expert's episode from initial state `seed`; `on_step` as in `collect_episode`."""
        env = self.envs.make(task)
        expert = self.envs.suite.expert(env, noise=self.noise, seed=seed)
        return collect_episode(env, expert, seed, on_step=on_step)


@dataclass(frozen=True)
class PolicyRecorder:
    """Records a policy in this process."""

    policy: "Policy"
    envs: EnvMaker
    chunk_steps: int
    execution: str
    seed: int

    @classmethod
    def load(cls, config: "DictConfig", envs: EnvMaker) -> "PolicyRecorder":
        """The policy folder `collect.policy`, executed as the `chunk_size` section says."""
        policy = load_acting_policy(config, config.collect.policy)
        fit_cameras(policy, [name for name, _ in envs.cameras], "env.cameras")
        _fit_environment(policy, envs.suite, envs.environment_state, "env.environment_state=false")
        return cls(policy, envs, config.chunk_size.steps, config.chunk_size.execution, config.seed)

    def __call__(self, task: str, seed: int, on_step: OnStep | None = None) -> Episode:
        """The policy's episode from initial state `seed`; `on_step` as in `collect_episode`."""
        env = self.envs.make(task)
        return collect_episode(env, _PolicyActor(self, env), seed, on_step=on_step)


class PrefixConditionedPolicy:
    """Asks a policy in a closed loop: one that takes committed actions is told what comes next and what was executed.

    After `steps` executed actions of a chunk, the next planned one is committed, and the new chunk continues it. A
    policy without a prefix is asked as it is. An episode begins where `frame_index` is 0: there the policy is asked
    without a prefix.
    """

    def __init__(self, policy: "Policy", steps: int, seed: int):
        self._policy, self._steps, self._seed = policy, steps, seed
        self._known, self._ahead = np.zeros((1, 0, policy.spec.action_dim), np.float32), 0

    def __call__(self, batch: Mapping[str, Any]) -> np.ndarray:
        """Actions [1, n, A] from the present step on, n at least the policy's horizon."""
        spec = self._policy.spec
        if not spec.prefix_future:
            return self._policy.predict(batch, seed=self._seed)
        if int(batch["frame_index"][0]) == 0:
            past = np.zeros((1, 0, spec.action_dim), np.float32)
            actions = self._policy.predict(batch, seed=self._seed)
        else:
            length = self._known.shape[1]
            now = length - max(0, self._ahead - self._steps)
            # A plan that is used up to its end leaves the last action to be held.
            committed = self._known[:, min(now, length - 1)][:, None]
            past = self._known[:, max(0, now - spec.prefix_past) : now]
            after = self._policy.predict(batch, seed=self._seed, prefix=committed, past=past)
            actions = np.concatenate([committed, after], axis=1)
        self._known, self._ahead = np.concatenate([past, actions], axis=1), actions.shape[1]
        return actions


class _PolicyActor:
    """A policy as an `Actor`: sees what the env shows, keeps its history, executes its chunks."""

    def __init__(self, recorder: PolicyRecorder, env: Env):
        self._recorder, self._env = recorder, env
        self._window: History | None = None

    def reset(self, episode: int) -> None:
        """Forget the last episode."""
        recorder = self._recorder
        self._window, self._seed = None, episode
        execute = Receding if recorder.execution == "receding" else Ensembling
        steps = recorder.chunk_steps if recorder.execution == "receding" else 1
        self._predict = PrefixConditionedPolicy(recorder.policy, steps, recorder.seed)
        self._execute = execute(self._ask, recorder.chunk_steps)

    def act(self) -> np.ndarray:
        """The next action [A]."""
        observation = self._env.observe()
        if self._window is None:
            self._window = History(observation, self._recorder.policy.spec.history, self._seed)
        else:
            self._window.add(observation)
        return np.asarray(self._execute.next(), np.float32)

    def _ask(self) -> np.ndarray:
        assert self._window is not None
        return self._predict(self._window.batch())[0]


def load_acting_policy(
    config: "DictConfig", path: str, camera_map: Mapping[str, str | None] | None = None, unnorm_key: str | None = None
) -> "Policy":
    """Load a policy (see `xp.load_policy`) and check that the chunk fits its horizon."""
    from xp.tasks._lib.loading import load

    policy = load(config, path, camera_map, unnorm_key)
    refuse_long_chunk(config, policy, path)
    return policy


def fit_suite(policy: "Policy", suite: Suite, key: str | None = None) -> None:
    """Refuse a policy that looks at what the suite does not have; `key` maps its cameras, as for `fit_cameras`."""
    fit_cameras(policy, list(suite.camera_names), "the suite", key)
    _fit_environment(policy, suite, True, "the suite")


def _fit_environment(policy: "Policy", suite: Suite, given: bool, where: str) -> None:
    """Refuse a policy that reads another environment state than there is."""
    wanted, names = policy.spec.environment_dim, suite.environment_state_names
    if wanted and not given:
        raise UserError(
            f"The policy reads observation.environment_state, which {where} does not give. Type "
            "env.environment_state=true, or take a policy that goes by cameras."
        )
    if wanted and wanted != len(names):
        raise UserError(
            f"The policy reads {wanted} numbers of observation.environment_state; {where} gives {len(names)} "
            f"({join_names(names)}). Take a policy trained on a dataset recorded with env.environment_state=true."
        )


def refuse_long_chunk(config: "DictConfig", policy: "Policy", path: str) -> None:
    """Refuse chunks that are longer than the policy's horizon."""
    if config.chunk_size.steps > policy.spec.horizon:
        raise UserError(
            f"chunk_size.steps={config.chunk_size.steps} exceeds the horizon {policy.spec.horizon} that {path} was "
            f"trained on. Give chunk_size.steps=1..{policy.spec.horizon}"
        )
