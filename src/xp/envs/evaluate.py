"""Many closed-loop episodes of one policy: envs side by side, their queries answered together.

Which queries are answered together depends on who is faster; results do not: an answer has to be a pure function of its
query (see `Answer`), and an episode is one of (task, seed, actions). So any number of workers gives the same results,
and an episode whose worker died can be run again.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from xp.envs.maker import EnvMaker
from xp.envs.pool import Asked, EnvPool, EnvsHere, Event, Lost, places_of
from xp.envs.pool_processes import SILENCE_S, EnvProcesses
from xp.envs.rollout import Chunk, EpisodeResult, Execution, Query, one_chunk
from xp.envs.room import envs_that_fit
from xp.envs.suite import Predict
from xp.errors import UserError

ATTEMPTS = 3
"""How often an episode is begun whose worker dies; from the second time on it has a worker of its own."""
_WAIT_S = 0.1
"""How often it is asked whether to leave while envs are at work."""


@runtime_checkable
class Answer(Protocol):
    """A policy that answers the queries of many episodes.

    An answer may depend on its query, the policy and the run's seed; not on the queries beside it, nor on their order.
    """

    batch: int
    """How many queries are answered at once at most."""

    def __call__(self, queries: Sequence[Query]) -> Sequence[Chunk]:
        """A chunk [H, A] for each query."""
        ...


class OneByOne:
    """Any `Predict` that is a pure function of its window, as an `Answer`: a control, an expert."""

    def __init__(self, predict: Predict, batch: int = 1):
        self._predict, self.batch = predict, batch

    def __call__(self, queries: Sequence[Query]) -> Sequence[Chunk]:
        """See `Answer`."""
        return [one_chunk(self._predict(query.window)) for query in queries]


def open_pool(
    envs: EnvMaker,
    execution: Execution,
    *,
    workers: int,
    batch: int,
    episodes: int,
    places: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
    silence_s: float = SILENCE_S,
) -> EnvPool:
    """Envs for a policy that answers `batch` queries together.

    One worker is this process, with `batch` envs. With more there are twice as many envs, so that one half acts while
    the policy answers the other; each worker process has an equal part of them. Where a suite says how much memory an
    env takes, there are no more than fit into half of what is free (`xp.envs.room`).

    Args:
        envs: what makes them.
        execution: how chunks become actions.
        workers: processes that simulate.
        batch: queries that are answered together.
        episodes: how many there will be; no more envs are made than that.
        places: how many envs instead, at least one a worker: where envs are large.
        on_step: as in `EnvsHere`; worker processes do not call it.
        silence_s: as in `EnvProcesses`.
    """
    wanted = places or min(batch if workers == 1 else 2 * max(batch, workers), envs_that_fit(envs.suite))
    places = max(workers, min(wanted, episodes))
    if workers == 1:
        return EnvsHere(envs, execution, places=places, on_step=on_step)
    return EnvProcesses(envs, execution, workers=workers, places=places, silence_s=silence_s)


def evaluate(
    pool: EnvPool, asked: Iterable[Asked], answer: Answer, *, on_wait: Callable[[], None] = lambda: None
) -> Iterator[EpisodeResult]:
    """Run episodes and give the result of each as it ends: in an order of no meaning.

    Args:
        pool: the envs; nobody else uses it meanwhile.
        asked: the episodes; those of one task together cost the fewest envs.
        answer: the policy.
        on_wait: called some times a second (more seldom where one answer takes longer); what it raises comes out.

    Raises:
        UserError: the suite or the policy refuses, or an episode's worker died `ATTEMPTS` times.
    """
    evaluation = _Evaluation(pool, asked, answer)
    while evaluation.unfinished:
        on_wait()
        evaluation.begin()
        if evaluation.answer_due():
            continue
        for place, event in pool.poll(_WAIT_S):
            result = evaluation.take(place, event)
            if result is not None:
                yield result


def first_queries(pool: EnvPool, asked: Sequence[Asked], on_wait: Callable[[], None] = lambda: None) -> list[Query]:
    """What each episode asks first, in their order; none is run further. At most as many as the pool has places.

    Raises:
        UserError: as `evaluate`.
    """
    found: dict[int, Query] = {}
    for place, each in enumerate(asked):
        pool.begin(place, each)
    died: Counter[int] = Counter()
    while len(found) < len(asked):
        on_wait()
        for place, event in pool.poll(_WAIT_S):
            if isinstance(event, Lost):
                died[place] += 1
                _refuse_deadly(asked[place], died[place], event.said)
                pool.begin(place, asked[place])
            else:
                assert isinstance(event, Query), "no episode ends before its first query"
                found[place] = event
    return [found[place] for place in range(len(asked))]


class _Evaluation:
    """What is still to be done, what runs where, and who waits for an answer."""

    def __init__(self, pool: EnvPool, asked: Iterable[Asked], answer: Answer):
        self._pool, self._answer = pool, answer
        self._todo = deque(asked)
        self._again: deque[Asked] = deque()
        self._running: dict[int, Asked] = {}
        self._waiting: dict[int, Query] = {}
        self._deaths: Counter[Asked] = Counter()
        self._kept: set[int] = set()
        """Workers that take episodes of `_again` alone, one at a time, so that it is known which one ends them."""
        self._places = {pool.worker(place): places_of(pool.worker(place), pool) for place in range(pool.places)}

    @property
    def unfinished(self) -> bool:
        """Whether an episode runs or is to be begun."""
        return bool(self._todo or self._again or self._running)

    def begin(self) -> None:
        """Give free places what they can do."""
        if not self._again:
            self._kept = {worker for worker in self._kept if self._at_work(worker)}
        for worker, places in self._places.items():
            if worker in self._kept:
                if self._again and not self._at_work(worker):
                    self._begin(places[0], self._again.popleft())
                continue
            for place in places:
                if self._todo and place not in self._running:
                    self._begin(place, self._todo.popleft())

    def answer_due(self) -> bool:
        """Answer queries if enough are there: a full batch, or as many as can come without waiting for all."""
        enough = -(-len(self._running) // 2) if self._pool.overlaps else len(self._running)
        if not self._waiting or len(self._waiting) < min(self._answer.batch, enough):
            return False
        asking = [(place, self._waiting.pop(place)) for place in list(self._waiting)[: self._answer.batch]]
        chunks = self._answer([query for _, query in asking])
        for (place, _), chunk in zip(asking, chunks, strict=True):
            self._pool.answer(place, np.asarray(chunk))
        return True

    def take(self, place: int, event: Event) -> EpisodeResult | None:
        """Note what happened at a place; gives the result of an episode that ended."""
        if isinstance(event, Query):
            self._waiting[place] = event
            return None
        asked = self._running.pop(place, None)
        self._waiting.pop(place, None)
        if asked is None:  # the worker of an episode that nobody wants any more
            return None
        if isinstance(event, EpisodeResult):
            return event
        self._deaths[asked] += 1
        _refuse_deadly(asked, self._deaths[asked], event.said)
        self._kept.add(self._pool.worker(place))
        self._again.append(asked)
        return None

    def _begin(self, place: int, asked: Asked) -> None:
        self._running[place] = asked
        self._pool.begin(place, asked)

    def _at_work(self, worker: int) -> bool:
        return any(place in self._running for place in self._places[worker])


def _refuse_deadly(asked: Asked, deaths: int, said: str) -> None:
    if deaths >= ATTEMPTS:
        raise UserError(
            f"The episode of task {asked.task}, seed {asked.seed} ended its process {deaths} times, the last time with "
            f"no other episode beside it: {said}\nThe same command goes on with the episodes that are not finished; "
            "eval.workers=1 runs them in its own process, where a debugger can be used."
        )
