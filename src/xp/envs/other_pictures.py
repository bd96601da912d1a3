"""A control for policies that act by what they see: the same policy, shown the pictures of other episodes.

All else is its own: state, history, noise. What succeeds this way does so without looking, whatever its actions seem to
depend on: by its state, by heart, or because every initial state will do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from xp.array_types import Numbers
from xp.envs.evaluate import Answer, evaluate
from xp.envs.pool import Asked, EnvPool
from xp.envs.rollout import Chunk, Query

SHOWN = 8
"""How many episodes of a task are shown at most: their places are what the control's success depends on."""
PICTURES = "observation.images."

type Pictures = Mapping[str, Numbers]
"""`observation.images.<camera>` [1, T, h, w, 3] uint8 of one query."""
type Shown = Mapping[int, Sequence[Pictures]]
"""Initial state to the pictures of its episode's queries, in their order."""


class OtherPictures:
    """An `Answer` that asks a policy with the pictures of another episode of the task, at the same query.

    Args:
        answer: the policy.
        shown: episodes of the task, at least two.
        first_seed: the first initial state that is asked about: with the i-th of them goes episode i + 1 of those
            that are shown, in a circle, so that none is shown its own.
    """

    def __init__(self, answer: Answer, shown: Shown, first_seed: int):
        assert len(shown) > 1, "an episode would be shown itself"
        self._answer, self.batch, self._first_seed = answer, answer.batch, first_seed
        self._shown = [shown[seed] for seed in sorted(shown)]

    def __call__(self, queries: Sequence[Query]) -> Sequence[Chunk]:
        """See `Answer`."""
        return self._answer([replace(query, window={**query.window, **self._other(query)}) for query in queries])

    def _other(self, query: Query) -> Pictures:
        """The pictures of the other episode at this query, or its last ones where it was over by then."""
        others = self._shown[(query.seed - self._first_seed + 1) % len(self._shown)]
        return others[min(query.index, len(others) - 1)]


def pictures_of(
    pool: EnvPool, task: str, seeds: Sequence[int], answer: Answer, on_wait: Callable[[], None] = lambda: None
) -> Shown:
    """What the policy `answer` sees at each of its queries in the episodes from `seeds` of a task.

    Raises:
        UserError: as `xp.envs.evaluate.evaluate`.
    """
    seeing = _Seeing(answer)
    results = evaluate(pool, [Asked(task, seed) for seed in seeds], seeing, on_wait=on_wait)
    lengths = {result.seed: result.queries for result in results}
    return {seed: [seeing.seen[seed, index] for index in range(lengths[seed])] for seed in seeds}


class _Seeing:
    """An `Answer` that notes the pictures of each query."""

    def __init__(self, answer: Answer):
        self._answer, self.batch = answer, answer.batch
        self.seen: dict[tuple[int, int], Pictures] = {}

    def __call__(self, queries: Sequence[Query]) -> Sequence[Chunk]:
        for query in queries:
            self.seen[query.seed, query.index] = {
                key: value
                for key, value in query.window.items()
                if key.startswith(PICTURES) and not isinstance(value, list)
            }
        return self._answer(queries)
