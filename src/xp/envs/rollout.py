"""Closed-loop episodes: a policy's chunks executed in an env, from a fixed list of seeds.

Three ways to execute chunks. `receding`: run the first `chunk_steps` actions of a chunk, then ask again. `ensembling`:
ask at every step and average all chunks' predictions for the present step, weighted exp(-m i) with i = 0 for the oldest
("temporal ensembling": Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", RSS 2023,
section IV-B, algorithm 2). `real_time`: ask after each `chunk_steps` actions too, but act on by the last chunk for the
`delay` steps that an answer takes, as a robot that does not stop to think (Black, Galliker & Levine, "Real-Time
Execution of Action Chunking Flow Policies", 2025, algorithm 1); a policy that can is told the plan that it shall join.

An episode is a generator (`episode`): it yields a `Query` where the policy has to be asked, and is sent the chunk. So
one loop serves an env in this process (`rollout`) and many envs whose queries are answered together
(`xp.envs.evaluate`).
"""

from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from xp.envs.recording import Episode, Recorder, larger_reward
from xp.envs.suite import Env, Observation, Predict
from xp.errors import UserError, did_you_mean, join_names

EXECUTIONS = ("receding", "ensembling", "real_time")
ENSEMBLE_DECAY = 0.01
"""m of the weights exp(-m i): ACT's published value."""

type Chunk = Float[np.ndarray, "horizon action"]
"""What a policy answers to one query: actions from the present step on, in dataset units."""
type Window = dict[str, np.ndarray | list[str]]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a policy's chunks become actions.

    Raises:
        UserError: another `name` than `EXECUTIONS`, `chunk_steps` or `history` below 1, or a delay that is not of
            `real_time`, or more than is executed of a chunk.
    """

    chunk_steps: int
    """Actions executed of each chunk (`receding`), or chunks averaged (`ensembling`); at most H."""
    name: str = "receding"
    history: int = 1
    """Observations in the policy's window (T)."""
    remembered: int = 0
    """Executed actions that a query tells: a policy's `prefix_past`."""
    delay: int = 0
    """Control steps that an answer takes (`real_time`); at most `chunk_steps`, and H - `chunk_steps`."""

    def __post_init__(self) -> None:
        if self.name not in EXECUTIONS:
            raise UserError(
                f"There is no execution '{self.name}'{did_you_mean(self.name, EXECUTIONS)}. "
                f"Give one of {join_names(EXECUTIONS)}, for instance chunk_size.execution=receding."
            )
        if self.chunk_steps < 1 or self.history < 1:
            raise UserError(
                f"chunk_size.steps={self.chunk_steps} with a history of {self.history}: both must be at least 1, "
                "e.g. chunk_size.steps=4."
            )
        if not 0 <= self.delay <= (self.chunk_steps if self.name == "real_time" else 0):
            raise UserError(
                f"chunk_size.delay={self.delay} with chunk_size.execution={self.name} and chunk_size.steps="
                f"{self.chunk_steps}: an answer may take as many steps as are executed of a chunk, with real_time "
                "alone. Type chunk_size.delay=0, or chunk_size.execution=real_time and a delay of at most "
                "chunk_size.steps."
            )

    @property
    def needed(self) -> int:
        """Actions that a chunk has to have."""
        return self.chunk_steps + self.delay


@dataclass(frozen=True, kw_only=True)
class Query:
    """What an episode asks a policy: all that its answer may depend on, beside the policy and the run's seed."""

    task: str
    seed: int
    """The episode's initial state."""
    index: int
    """The number of this query in its episode, from 0."""
    window: Window
    """The batch of one observation window that `Predict` takes."""
    executed: Float[np.ndarray, "k action"]
    """The last executed actions [k, A], at most `Execution.remembered`, fewer after the episode's begin."""
    planned: Float[np.ndarray, "left action"]
    """What is left of the last chunk from the present step on [m, A]; nothing before the first."""
    delay: int | None = None
    """How many of those are executed before the answer is there; None where the env waits for it."""


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """How one episode went. `frames` [steps + 1, h, w, 3] of each recorded camera, the first observation's included.

    `max_reward` is the largest reward of a step; None where the suite has no rewards.
    """

    seed: int
    task: str
    success: bool
    steps: int
    queries: int
    max_reward: float | None = None
    frames: Mapping[str, UInt8[np.ndarray, "frames height width 3"]] = field(default_factory=dict)
    recorded: Episode | None = None
    """The whole episode, where it was to be recorded."""


class History:
    """The last T observations of one episode as a batch of one; before the first there is the first, marked as pad."""

    def __init__(self, first: Observation, length: int, seed: int):
        self._seed, self._frame = seed, 0
        self._seen = deque([(first, index < length - 1) for index in range(length)], maxlen=length)

    def add(self, observation: Observation) -> None:
        """Append the newest observation."""
        self._seen.append((observation, False))
        self._frame += 1

    def batch(self) -> Window:
        """The window as the batch that `Predict` takes."""
        newest = self._seen[-1][0]
        keys = [key for key in newest if key != "task"]
        window: Window = {key: np.stack([seen[key] for seen, _ in self._seen])[None] for key in keys}
        window["observation_is_pad"] = np.array([[pad for _, pad in self._seen]])
        window["task"] = [str(newest["task"])]
        window["episode_index"] = np.array([self._seed], np.int64)
        window["frame_index"] = np.array([self._frame], np.int64)
        return window


class Film:
    """The frames of some cameras."""

    def __init__(self, cameras: Sequence[str]):
        self._frames: dict[str, list[np.ndarray]] = {camera: [] for camera in cameras}

    def add(self, observation: Observation) -> None:
        """Append what is seen; a picture that no camera of the film has is not looked at."""
        for camera, seen in self._frames.items():
            seen.append(np.asarray(observation[f"observation.images.{camera}"]))

    def frames(self) -> dict[str, UInt8[np.ndarray, "frames height width 3"]]:
        """All frames of each camera."""
        return {camera: np.stack(seen) for camera, seen in self._frames.items()}


class Receding:
    """Executes the first `chunk_steps` actions of each chunk, then wants the next."""

    delay: int | None = None
    """Control steps that an answer takes; None: it is waited for."""

    def __init__(self, chunk_steps: int):
        self._steps = chunk_steps
        self._chunk, self._at = np.zeros((0, 0)), 0

    @property
    def wants_chunk(self) -> bool:
        """Whether a chunk has to be added before the next action."""
        return self._at == min(len(self._chunk), self._steps)

    @property
    def planned(self) -> Chunk:
        """What the last chunk says from now on [m, A]."""
        return self._chunk[self._at :]

    def add(self, chunk: Chunk) -> None:
        """The policy's answer for now [H, A]."""
        self._chunk, self._at = chunk, 0

    def next(self) -> Float[np.ndarray, " action"]:
        """The action [A] to execute now."""
        self._at += 1
        return self._chunk[self._at - 1]


class RealTime(Receding):
    """The same, but what a chunk says of the `delay` steps in which it was computed comes too late: the last one rules.

    The first chunk of an episode is waited for.
    """

    def __init__(self, chunk_steps: int, delay: int):
        super().__init__(chunk_steps)
        self.delay = delay

    def add(self, chunk: Chunk) -> None:
        """The policy's answer to what was seen now [H, A]."""
        committed = self.planned[: self.delay]
        super().add(np.concatenate([committed, chunk[len(committed) :]]) if len(committed) else chunk)


class Ensembling:
    """Wants a chunk at every step; the action is the weighted mean of what the last `chunk_steps` chunks say of now."""

    delay = None

    def __init__(self, chunk_steps: int, decay: float = ENSEMBLE_DECAY):
        self._decay, self._steps = decay, chunk_steps
        self._chunks: deque[np.ndarray] = deque(maxlen=chunk_steps)
        self.planned: Chunk = np.zeros((0, 0))
        """What the last chunk says from now on [m, A]."""
        self.wants_chunk = True
        """Whether a chunk has to be added before the next action."""

    def add(self, chunk: Chunk) -> None:
        """The policy's answer for now [H, A]."""
        self._chunks.append(chunk[: self._steps])
        self.planned, self.wants_chunk = chunk[1:], False

    def next(self) -> Float[np.ndarray, " action"]:
        """The action [A] to execute now."""
        self.wants_chunk = True
        predictions = np.stack([chunk[age] for age, chunk in zip(range(len(self._chunks) - 1, -1, -1), self._chunks)])
        weights = np.exp(-self._decay * np.arange(len(predictions)))
        return np.average(predictions, axis=0, weights=weights)


def episode(
    env: Env,
    seed: int,
    execution: Execution,
    *,
    cameras: Sequence[str] = (),
    record: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Generator[Query, Chunk, EpisodeResult]:
    """One episode: yields queries, is sent the chunks [at least `needed`, A] that answer them, returns how it went.

    Args:
        env: the environment; it is reset.
        seed: the initial state.
        execution: how chunks become actions.
        cameras: those whose frames shall be kept.
        record: whether the whole episode shall be kept, for a dataset.
        on_step: called after each control step with (seed, step); what it raises ends the episode.

    Raises:
        UserError: a chunk that is too short, of another width, or not finite.
    """
    observation = env.reset(seed)
    window = History(observation, execution.history, seed)
    acting = _acting(execution)
    executed: deque[np.ndarray] = deque(maxlen=execution.remembered)
    film, recorder = Film(cameras), Recorder(env) if record else None
    film.add(observation)
    queries, done, success, max_reward = 0, False, False, None
    while not done:
        if acting.wants_chunk:
            chunk = yield _query(env, seed, queries, window, executed, acting)
            queries += 1
            acting.add(_checked_chunk(chunk, execution.needed, env, seed))
        action = np.asarray(acting.next(), np.float32)
        executed.append(action)
        if recorder is not None:
            recorder.note(observation, action)
        result = env.step(action)
        observation, done, success = result.observation, result.done, result.success
        max_reward = larger_reward(max_reward, result.reward)
        window.add(observation)
        film.add(observation)
        if on_step is not None:
            on_step(seed, env.steps)
    recorded = None if recorder is None else recorder.episode(seed, success=success, max_reward=max_reward)
    return EpisodeResult(
        seed=seed,
        task=env.task,
        success=success,
        steps=env.steps,
        queries=queries,
        max_reward=max_reward,
        frames=film.frames(),
        recorded=recorded,
    )


def _acting(execution: Execution) -> Receding | Ensembling:
    if execution.name == "real_time":
        return RealTime(execution.chunk_steps, execution.delay)
    return (Receding if execution.name == "receding" else Ensembling)(execution.chunk_steps)


def _query(
    env: Env,
    seed: int,
    index: int,
    window: History,
    executed: Collection[Float[np.ndarray, " action"]],
    acting: Receding | Ensembling,
) -> Query:
    told = np.stack(list(executed)) if executed else np.zeros((0, len(env.action_low)), np.float32)
    return Query(
        task=env.task,
        seed=seed,
        index=index,
        window=window.batch(),
        executed=told,
        planned=acting.planned,
        delay=acting.delay,
    )


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
    """Run one episode a seed in one env and say how each went, in the order of `seeds`; `xp.envs.evaluate` runs many.

    Args:
        env: the environment; its cameras are what the policy sees.
        predict: the policy (see `Predict`).
        seeds: initial states; all are used.
        chunk_steps: as in `Execution`.
        history: as in `Execution`.
        on_step: as in `episode`.
        execution: `receding` or `ensembling`.
        record: seed to the env's cameras whose frames shall be kept.

    Raises:
        UserError: as `Execution` and `episode`.
    """
    how = Execution(chunk_steps=chunk_steps, name=execution, history=history)
    record = record or {}
    results = []
    for seed in seeds:
        running = episode(env, seed, how, cameras=record.get(seed, ()), on_step=on_step)
        query = next(running)
        try:
            while True:
                query = running.send(one_chunk(predict(query.window)))
        except StopIteration as end:
            results.append(end.value)
    return results


def one_chunk(actions: Float[np.ndarray, "..."]) -> Chunk:
    """The chunk [H, A] of a prediction [1, H, A].

    Raises:
        UserError: another shape.
    """
    actions = np.asarray(actions)
    if actions.ndim != 3 or actions.shape[0] != 1:
        raise UserError(f"The policy gave actions of shape {actions.shape} where [1, horizon, action] is needed.")
    return actions[0]


def _checked_chunk(chunk: Chunk, needed: int, env: Env, seed: int) -> Chunk:
    width = len(env.action_low)
    if chunk.ndim != 2 or chunk.shape[1] != width or len(chunk) < needed:
        raise UserError(
            f"The policy gave actions of shape {chunk.shape} where [at least {needed}, {width}] is needed: "
            f"a chunk cannot be longer than the horizon. Give chunk_size.steps (with chunk_size.delay) of at most the "
            f"policy's horizon, and a policy trained for {width} action dimensions."
        )
    if not np.isfinite(chunk).all():
        raise UserError(
            f"The policy gave a NaN or infinite action in the episode of seed {seed}, step {env.steps}: "
            "its weights are broken (look at the training log); give another checkpoint."
        )
    return chunk
