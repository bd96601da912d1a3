"""Envs side by side: episodes that run at the same time, in this process or in worker processes.

An env has a place, 0 to `places` - 1. An episode begun at a place runs until it has to ask the policy, or ends; `poll`
tells what has happened.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from xp.envs.maker import EnvMaker
from xp.envs.rollout import Chunk, EpisodeResult, Execution, Query, episode
from xp.envs.suite import Env


@dataclass(frozen=True)
class Asked:
    """An episode that is wanted: a pure function of (policy, task, seed)."""

    task: str
    seed: int
    """The initial state."""
    cameras: tuple[str, ...] = ()
    """Those whose frames shall be kept."""
    record: bool = False
    """Whether the whole episode shall be kept."""


@dataclass(frozen=True)
class Lost:
    """The episode at a place is gone, and has to be begun again: its worker died. `said` is what the worker left."""

    said: str


type Event = Query | EpisodeResult | Lost


@runtime_checkable
class EnvPool(Protocol):
    """Envs side by side; see the module's text."""

    places: int
    """How many envs there are."""
    overlaps: bool
    """Whether envs go on while this process asks a policy."""

    def worker(self, place: int) -> int:
        """The number of the worker that a place belongs to: its places are lost together."""
        ...

    def begin(self, place: int, asked: Asked) -> None:
        """Begin an episode at a place; one that was there before is given up."""
        ...

    def answer(self, place: int, chunk: Chunk) -> None:
        """Answer the query of the episode at a place."""
        ...

    def poll(self, timeout: float) -> list[tuple[int, Event]]:
        """What has happened since the last call, by place; waits up to `timeout` seconds for the first.

        Raises:
            UserError: the suite refuses what was asked of it, or no worker can be started.
        """
        ...

    def close(self) -> None:
        """End all workers. May be called twice."""
        ...


type Running = Generator[Query, Chunk, EpisodeResult]


class EnvPlaces:
    """The envs of one process: each is made when its place first needs it, and kept while its task stays the same."""

    def __init__(self, envs: EnvMaker, execution: Execution, on_step: Callable[[int, int], None] | None = None):
        self._maker, self._execution, self._on_step = envs, execution, on_step
        self._envs: dict[int, Env] = {}
        self._running: dict[int, Running] = {}

    def begin(self, place: int, asked: Asked) -> Query | EpisodeResult:
        """Run an episode to its first query."""
        self._running.pop(place, None)
        env = self._envs.get(place)
        if env is None or env.task != asked.task:
            self._envs.pop(place, None)
            del env  # two envs of a place are never in memory together
            env = self._envs[place] = self._maker.make_new(asked.task)
        running = episode(
            env,
            asked.seed,
            self._execution,
            cameras=asked.cameras,
            record=asked.record,
            on_step=self._on_step,
        )
        self._running[place] = running
        return next(running)

    def answer(self, place: int, chunk: Chunk) -> Query | EpisodeResult:
        """Run the episode at a place to its next query, or to its end."""
        try:
            return self._running[place].send(chunk)
        except StopIteration as end:
            del self._running[place]
            return end.value


class EnvsHere:
    """An `EnvPool` in this process: envs take turns, and wait while a policy is asked.

    Args:
        envs: what makes them.
        execution: how chunks become actions.
        places: how many.
        on_step: called after each control step with (seed, step); what it raises comes out of `poll`.
    """

    overlaps = False

    def __init__(
        self,
        envs: EnvMaker,
        execution: Execution,
        *,
        places: int,
        on_step: Callable[[int, int], None] | None = None,
    ):
        self.places = places
        self._at = EnvPlaces(envs, execution, on_step)
        self._due: deque[tuple[int, Asked | Chunk]] = deque()

    def worker(self, place: int) -> int:
        """All places are this process's."""
        return 0

    def begin(self, place: int, asked: Asked) -> None:
        """See `EnvPool.begin`."""
        self._due.append((place, asked))

    def answer(self, place: int, chunk: Chunk) -> None:
        """See `EnvPool.answer`."""
        self._due.append((place, chunk))

    def poll(self, timeout: float) -> list[tuple[int, Event]]:
        """Run the episode whose turn it is to its next event."""
        if not self._due:
            return []
        place, what = self._due.popleft()
        event = self._at.begin(place, what) if isinstance(what, Asked) else self._at.answer(place, what)
        return [(place, event)]

    def close(self) -> None:
        """Nothing to end; the envs are let go."""
        self._due.clear()


def places_of(worker: int, pool: EnvPool) -> Sequence[int]:
    """The places that belong to a worker."""
    return [place for place in range(pool.places) if pool.worker(place) == worker]
