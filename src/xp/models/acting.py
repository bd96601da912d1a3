# pyright: strict
"""A policy that acts in many closed-loop episodes: their queries answered in batches of one size.

An answer is a pure function of the policy, the run's seed and the query. Noise is drawn by (seed, task, initial state,
number of the query), not by the place in a batch. The last bits of a matrix product may depend on the batch's size and
on a row's place in it: so every batch has one size, filled up with copies where queries are few, and whether a row's
place or its neighbours change its answer is tried out before anything is scored (`settle`). Where they do, each query
is asked by itself.

Letters: B queries in a batch, T observation history, H horizon, A action, S state.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from xp.array_types import Numbers
from xp.errors import UserError
from xp.models.policy import Batch, PolicySpec, Seed

type Window = Mapping[str, Numbers | list[str]]
"""A batch of one observation window."""
type Rows = dict[str, Numbers | list[str]]
"""A batch of several."""
type Kind = tuple[Literal["", "prefix", "plan"], int, int]
"""What a policy is told beside what is seen: the sort, how many actions, and with a plan the delay."""


@runtime_checkable
class Acts(Protocol):
    """The part of a `Policy` that acts."""

    spec: PolicySpec

    def predict(self, observation: Batch, *, seed: Seed = 0, **options: object) -> NDArray[np.float32]:
        """See `Policy.predict`."""
        ...


@runtime_checkable
class Query(Protocol):
    """What an episode asks: an `xp.envs.rollout.Query`."""

    @property
    def task(self) -> str:
        """The task's name."""
        ...

    @property
    def seed(self) -> int:
        """The episode's initial state."""
        ...

    @property
    def index(self) -> int:
        """The number of this query in its episode."""
        ...

    @property
    def window(self) -> Window:
        """What is seen: a batch of one."""
        ...

    @property
    def executed(self) -> NDArray[np.floating]:
        """The last executed actions [k, A]."""
        ...

    @property
    def planned(self) -> NDArray[np.floating]:
        """What is left of the last chunk from the present step on [m, A]."""
        ...

    @property
    def delay(self) -> int | None:
        """How many of those are executed before the answer is there; None where the env waits for it."""
        ...


class BatchedPolicy:
    """Answers queries of closed-loop episodes; an `xp.envs.evaluate.Answer`.

    A policy that takes committed actions (`spec.prefix_future`) is told the next planned one, which the new chunk
    continues, and what was executed. A plan that is used up to its end leaves the last action to be held. At an
    episode's begin it is asked without. One that takes a plan (`spec.takes_plan`) is told what is left of the last
    chunk where chunks are executed in real time.

    Args:
        policy: the policy.
        seed: of the run.
        batch: how many rows every batch has.
    """

    def __init__(self, policy: Acts, *, seed: int, batch: int) -> None:
        self.policy, self.batch = policy, batch
        self._seed = seed

    def __call__(self, queries: Sequence[Query]) -> list[NDArray[np.float32]]:
        """A chunk [H, A] for each query, or [1 + H, A] behind a committed action.

        Raises:
            UserError: the policy gave actions of another shape.
        """
        kinds: dict[Kind, list[int]] = {}
        for number, query in enumerate(queries):
            kinds.setdefault(self._kind(query), []).append(number)
        answers: dict[int, NDArray[np.float32]] = {}
        for numbers in kinds.values():
            for start in range(0, len(numbers), self.batch):
                some = numbers[start : start + self.batch]
                answers.update(zip(some, self._ask([queries[number] for number in some])))
        return [answers[number] for number in range(len(queries))]

    def settle(self, queries: Sequence[Query]) -> bool:
        """Whether a row's answer is the same at every place and beside any others; if not, rows are asked alone.

        Args:
            queries: some that are asked without a prefix; fewer than a batch are repeated with other noise and
                pictures.
        """
        if self.batch == 1:
            return True
        base = [queries[row % len(queries)] for row in range(self.batch)]
        window = rows_of(query.window for query in base)
        window = _varied(window, len(queries))
        seeds = np.array([noise_seed(self._seed, "settle", row, 0) for row in range(self.batch)], np.int64)
        orders = (np.arange(self.batch)[::-1], np.roll(np.arange(self.batch), 1), np.zeros(self.batch, np.int64))
        whole = self._predict(window, seeds)
        same = self._keeps(window, seeds, whole, orders, {})
        if same and self.policy.spec.prefix_future:
            told = {"prefix": whole[:, :1], "past": whole[:, 1:1]}
            same = self._keeps(window, seeds, self._predict(window, seeds, **told), orders, told)
        if same and self.policy.spec.takes_plan and queries[0].delay is not None:
            told = {"plan": whole}
            same = self._keeps(window, seeds, self._predict(window, seeds, **told), orders, told)
        if not same:
            self.batch = 1
        return same

    def _keeps(
        self,
        window: Rows,
        seeds: NDArray[np.int64],
        whole: NDArray[np.float32],
        orders: Sequence[NDArray[np.int64]],
        told: Mapping[str, NDArray[np.float32]],
    ) -> bool:
        """Whether rows in each of the other orders are answered as they were, bit by bit."""
        for order in orders:
            options = {name: value[order] for name, value in told.items()}
            found = self._predict(_chosen(window, order), seeds[order], **options)
            if not np.array_equal(found, whole[order]):
                return False
        return True

    def _kind(self, query: Query) -> Kind:
        """Queries of one kind fit in one batch: told as many actions of the same sort, with the same delay."""
        spec = self.policy.spec
        if spec.prefix_future and query.index:
            return "prefix", min(len(query.executed), spec.prefix_past), 0
        if spec.takes_plan and query.delay is not None and len(query.planned):
            return "plan", len(query.planned), min(query.delay, len(query.planned))
        return "", 0, 0

    def _ask(self, queries: Sequence[Query]) -> list[NDArray[np.float32]]:
        filled = [*queries, *[queries[-1]] * (self.batch - len(queries))]
        seeds = np.array([noise_seed(self._seed, each.task, each.seed, each.index) for each in filled], np.int64)
        window = rows_of(query.window for query in filled)
        told, past, delay = self._kind(queries[0])
        if told == "plan":
            plan = np.stack([each.planned for each in filled]).astype(np.float32)
            return list(self._predict(window, seeds, plan=plan, delay=delay)[: len(queries)])
        if not told:
            return list(self._predict(window, seeds)[: len(queries)])
        prefix = np.stack([(each.planned if len(each.planned) else each.executed[-1:])[:1] for each in filled])
        executed = np.stack([each.executed[len(each.executed) - past :] for each in filled])
        committed, before = prefix.astype(np.float32), executed.astype(np.float32)
        chunks = self._predict(window, seeds, prefix=committed, past=before)
        return list(np.concatenate([committed, chunks], axis=1)[: len(queries)])

    def _predict(self, window: Rows, seeds: NDArray[np.int64], **options: object) -> NDArray[np.float32]:
        chunks = np.asarray(self.policy.predict(window, seed=seeds, **options))
        if chunks.ndim != 3 or len(chunks) != len(seeds):
            raise UserError(
                f"The policy gave actions of shape {chunks.shape} where [{len(seeds)}, horizon, action] is needed. "
                "Give a policy whose predict answers every row of a batch."
            )
        return chunks


def noise_seed(seed: int, task: str, initial_state: int, index: int) -> int:
    """Whence a query's noise is drawn, 0 to 2**32 - 1: a hash of all four, alike on every machine."""
    entropy = (seed, zlib.crc32(task.encode()), initial_state, index)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])


def rows_of(windows: Iterable[Window]) -> Rows:
    """Windows of one as one batch of many.

    Raises:
        UserError: they have different keys.
    """
    given = list(windows)
    first = given[0]
    if any(each.keys() != first.keys() for each in given):
        raise UserError("Observations of the tasks have different keys. Evaluate these tasks one by one (env.tasks).")
    found: Rows = {}
    for key, value in first.items():
        if isinstance(value, list):
            texts = [each[key] for each in given]
            found[key] = [text for some in texts if isinstance(some, list) for text in some]
        else:
            found[key] = np.concatenate([np.asarray(each[key]) for each in given])
    return found


def _chosen(window: Rows, order: NDArray[np.int64]) -> Rows:
    """Rows of a batch in another order."""
    return {
        key: [value[row] for row in order] if isinstance(value, list) else value[order] for key, value in window.items()
    }


def _varied(window: Rows, kept: int) -> Rows:
    """Rows from `kept` on with pictures of noise and other states, so that no two rows are alike."""
    draw = np.random.default_rng(0)
    found = dict(window)
    for key, value in window.items():
        if isinstance(value, list):
            continue
        if key.startswith("observation.images."):
            noise = draw.integers(0, 256, value[kept:].shape, dtype=np.uint8)
            found[key] = np.concatenate([value[:kept], noise])
        elif np.issubdtype(value.dtype, np.floating):
            states = value.astype(np.float64)
            states[kept:] += draw.normal(0.0, 0.1, states[kept:].shape)
            found[key] = states.astype(value.dtype)
    return found
