"""In a closed loop, a policy that takes committed actions is told what comes next and what was executed."""

import numpy as np
import pytest

from xp.envs.rollout import Execution, episode
from xp.envs.suite import StepResult
from xp.models.acting import BatchedPolicy
from xp.models.policy import PolicySpec

HORIZON, PAST = 5, 3


class Counting:
    """Gives numbered actions, each one more than the last committed one, and notes what its first row is told."""

    def __init__(self, prefix_future=2):
        self.spec = PolicySpec(
            horizon=HORIZON, action_dim=1, state_dim=1, cameras={}, prefix_past=PAST, prefix_future=prefix_future
        )
        self.told = []

    def predict(self, observation, *, seed=0, prefix=None, past=None):
        self.told.append((None if prefix is None else prefix[0].ravel(), None if past is None else past[0].ravel()))
        start = np.zeros(len(seed)) if prefix is None else prefix[:, -1, 0] + 1
        return (start[:, None] + np.arange(HORIZON))[..., None].astype(np.float32)


class Still:
    """An env that shows nothing new, for `count` steps."""

    task, language, cameras, action_low = "still", "stand still", {}, np.zeros(1)

    def __init__(self, count):
        self.max_steps, self.steps = count, 0

    def reset(self, seed):
        self.steps = 0
        return self.observe()

    def step(self, action):
        self.steps += 1
        return StepResult(self.observe(), False, self.steps == self.max_steps)

    def observe(self):
        return {"observation.state": np.zeros(1, np.float32), "task": self.language}


def run(policy, steps, count, execution="receding", batch=1):
    """The executed actions of one episode, as they are recorded."""
    answer = BatchedPolicy(policy, seed=0, batch=batch)
    how = Execution(chunk_steps=steps, name=execution, remembered=PAST)
    running = episode(Still(count), 0, how, record=True)  # pyright: ignore[reportArgumentType]
    query = next(running)
    try:
        while True:
            (chunk,) = answer([query])
            query = running.send(chunk)
    except StopIteration as end:
        return end.value.recorded.action.ravel().tolist()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_chunks_continue_one_another(steps, batch):
    policy = Counting()
    executed = run(policy, steps, 20, batch=batch)
    assert executed == list(range(20))
    for i, (prefix, past) in enumerate(policy.told[1:], start=1):
        now = i * steps
        assert prefix.tolist() == [now]
        assert past.tolist() == list(range(max(0, now - PAST), now))


def test_a_first_chunk_that_is_used_up_is_continued_from_its_last_action():
    policy = Counting()
    assert run(policy, HORIZON, 8) == [0, 1, 2, 3, 4, 4, 5, 6]
    assert policy.told[1][0].tolist() == [4] and policy.told[1][1].tolist() == [2, 3, 4]


def test_ensembling_asks_with_what_was_planned_for_now():
    policy = Counting()
    assert run(policy, 3, 10, "ensembling") == pytest.approx(list(range(10)))
    assert [prefix.tolist() for prefix, _ in policy.told[1:]] == [[i] for i in range(1, 10)]


def test_a_policy_without_a_prefix_is_asked_as_it_is():
    policy = Counting(prefix_future=0)
    run(policy, 2, 6)
    assert policy.told == [(None, None)] * 3


def test_queries_of_several_episodes_are_answered_as_each_would_be_alone():
    """At their begin, early with few actions executed, and later: in one call, in any order."""
    seen = []
    answer = BatchedPolicy(Counting(), seed=0, batch=4)
    for seed, steps in ((0, 1), (1, 3)):
        running = episode(Still(6), seed, Execution(chunk_steps=steps, remembered=PAST))  # pyright: ignore[reportArgumentType]
        query = next(running)
        try:
            while True:
                seen.append(query)
                query = running.send(answer([query])[0])
        except StopIteration:
            pass
    alone = [answer([query])[0] for query in seen]
    assert len({len(query.executed) for query in seen}) == PAST + 1
    for order in (list(range(len(alone))), list(range(len(alone)))[::-1]):
        together = answer([seen[number] for number in order])
        assert [chunk.tolist() for chunk in together] == [alone[number].tolist() for number in order]
