"""Closed-loop episodes: a policy's chunks executed in an env, from a fixed list of seeds.

Two ways to execute chunks. `receding`: run the first `chunk_steps` actions of a chunk, then ask again. `ensembling`:
ask at every step and average all chunks' opinions of the present action, weighted exp(-m i) with i = 0 for the oldest
("temporal ensembling": Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", RSS 2023,
section IV-B, algorithm 2).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xp.envs.suite import Env, Observation, Predict
from xp.errors import UserError, did_you_mean

EXECUTIONS = ("receding", "ensembling")
ENSEMBLE_DECAY = 0.01
"""m of the weights exp(-m i): ACT's published value."""


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """How one episode went. `frames` [steps + 1, h, w, 3] of each recorded camera, the first observation's included."""

    seed: int
    task: str
    success: bool
    steps: int
    queries: int
    frames: Mapping[str, np.ndarray] = field(default_factory=dict)


class History:
    """The last T observations of one episode as a batch of one; before the first there is the first, marked as pad."""

    def __init__(self, first: Observation, length: int, seed: int):
        self._seed, self._frame = seed, 0
        self._seen = deque([(first, index < length - 1) for index in range(length)], maxlen=length)

    def add(self, observation: Observation) -> None:
        """Append the newest observation."""
        self._seen.append((observation, False))
        self._frame += 1

    def batch(self) -> dict[str, Any]:
        """The window as the batch that `Predict` takes."""
        keys = [key for key in self._seen[-1][0] if key != "task"]
        window: dict[str, Any] = {key: np.stack([seen[key] for seen, _ in self._seen])[None] for key in keys}
        window["observation_is_pad"] = np.array([[pad for _, pad in self._seen]])
        window["task"] = [self._seen[-1][0]["task"]]
        window["episode_index"] = np.array([self._seed], np.int64)
        window["frame_index"] = np.array([self._frame], np.int64)
        return window


class Receding:
    """Executes the first `chunk_steps` actions of each chunk, then asks for the next."""

    def __init__(self, ask: Callable[[], np.ndarray], chunk_steps: int):
        self._ask, self._steps = ask, chunk_steps
        self._left: deque[np.ndarray] = deque()

    def next(self) -> np.ndarray:
        """The action [A] to execute now."""
        if not self._left:
            self._left.extend(self._ask()[: self._steps])
        return self._left.popleft()


class Ensembling:
    """Asks at every step; the action is the weighted mean of what the last `chunk_steps` chunks say about now."""

    def __init__(self, ask: Callable[[], np.ndarray], chunk_steps: int, decay: float = ENSEMBLE_DECAY):
        self._ask, self._decay = ask, decay
        self._chunks: deque[np.ndarray] = deque(maxlen=chunk_steps)
        self._steps = chunk_steps

    def next(self) -> np.ndarray:
        """The action [A] to execute now."""
        self._chunks.append(self._ask()[: self._steps])
        opinions = np.stack([chunk[age] for age, chunk in zip(range(len(self._chunks) - 1, -1, -1), self._chunks)])
        weights = np.exp(-self._decay * np.arange(len(opinions)))
        return np.average(opinions, axis=0, weights=weights)


def rollout(
    env: Env,
    predict: Predict,
    *,
    seeds: Sequence[int],
    chunk_steps: int,
    history: int = 1,
    on_step: Callable[[int, int], None] | None = None,
    execution: str = "receding",
    record: Mapping[int, Sequence[str]] | None = None,
) -> list[EpisodeResult]:
    """Run one episode a seed and say how each went, in the order of `seeds`.

    Args:
        env: the environment; its cameras are what the policy sees.
        predict: the policy (see `Predict`).
        seeds: initial states; all are used.
        chunk_steps: actions executed of each chunk (`receding`), or chunks averaged (`ensembling`); at most H.
        history: observations in the policy's window (T).
        on_step: called after each control step with (seed, step).
        execution: `receding` or `ensembling`.
        record: seed to the env's cameras whose frames shall be kept.

    Raises:
        UserError: another execution, chunk_steps or history below 1, a chunk shorter than `chunk_steps`, or actions
            that are not finite.
    """
    if execution not in EXECUTIONS:
        raise UserError(
            f"There is no execution '{execution}'{did_you_mean(execution, EXECUTIONS)}. "
            "Give chunk_size.execution=receding or chunk_size.execution=ensembling."
        )
    if chunk_steps < 1 or history < 1:
        raise UserError(
            f"chunk_size.steps={chunk_steps} with a history of {history}: both must be at least 1, "
            "e.g. chunk_size.steps=4."
        )
    record = record or {}
    return [
        _episode(env, predict, seed, chunk_steps, history, execution, on_step, tuple(record.get(seed, ())))
        for seed in seeds
    ]


def _episode(
    env: Env,
    predict: Predict,
    seed: int,
    chunk_steps: int,
    history: int,
    execution: str,
    on_step: Callable[[int, int], None] | None,
    cameras: tuple[str, ...],
) -> EpisodeResult:
    observation = env.reset(seed)
    window = History(observation, history, seed)
    queries = 0

    def ask() -> np.ndarray:
        nonlocal queries
        queries += 1
        return _checked_chunk(predict(window.batch()), chunk_steps, env, seed)

    execute = (Receding if execution == "receding" else Ensembling)(ask, chunk_steps)
    frames = {camera: [observation[f"observation.images.{camera}"]] for camera in cameras}
    done = success = False
    while not done:
        result = env.step(execute.next())
        done, success = result.done, result.success
        window.add(result.observation)
        for camera, seen in frames.items():
            seen.append(result.observation[f"observation.images.{camera}"])
        if on_step is not None:
            on_step(seed, env.steps)
    stacked = {camera: np.stack(seen) for camera, seen in frames.items()}
    return EpisodeResult(seed=seed, task=env.task, success=success, steps=env.steps, queries=queries, frames=stacked)


def _checked_chunk(actions: np.ndarray, chunk_steps: int, env: Env, seed: int) -> np.ndarray:
    """The chunk [H, A] of a prediction [1, H, A]."""
    actions = np.asarray(actions)
    width = len(env.action_low)
    if actions.ndim != 3 or actions.shape[0] != 1 or actions.shape[2] != width or actions.shape[1] < chunk_steps:
        raise UserError(
            f"The policy gave actions of shape {actions.shape} where [1, at least {chunk_steps}, {width}] is needed: "
            f"a chunk cannot be longer than the horizon. Give chunk_size.steps of at most the policy's horizon, "
            f"and a policy trained for {width} action dimensions."
        )
    if not np.isfinite(actions).all():
        raise UserError(
            f"The policy gave a NaN or infinite action in the episode of seed {seed}, step {env.steps}: "
            "its weights are broken (look at the training log); give another checkpoint."
        )
    return actions[0]
