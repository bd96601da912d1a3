"""In a closed loop, a policy that takes committed actions is told what comes next and what was executed."""

from types import SimpleNamespace

import numpy as np
import pytest

from xp.envs.rollout import Ensembling, Receding
from xp.models.policy import PolicySpec
from xp.tasks._lib.recorders import PrefixConditionedPolicy

HORIZON, PAST = 5, 3


class Counting:
    """Gives numbered actions, each one more than the last committed one, and notes what it is told."""

    def __init__(self, prefix_future=2):
        self.spec = PolicySpec(
            horizon=HORIZON, action_dim=1, state_dim=1, cameras={}, prefix_past=PAST, prefix_future=prefix_future
        )
        self.told = []

    def predict(self, observation, *, seed=0, prefix=None, past=None):
        self.told.append((None if prefix is None else prefix.ravel(), None if past is None else past.ravel()))
        start = 0 if prefix is None else prefix[0, -1, 0] + 1
        return start + np.arange(HORIZON, dtype=np.float32).reshape(1, HORIZON, 1)


def run(policy, steps, count, execute=Receding):
    predict = PrefixConditionedPolicy(policy, steps if execute is Receding else 1, 0)
    clock = SimpleNamespace(frame=0)
    acting = execute(lambda: predict({"frame_index": np.array([clock.frame])})[0], steps)
    executed = []
    for clock.frame in range(count):
        executed.append(float(acting.next()[0]))
    return executed


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_chunks_continue_one_another(steps):
    policy = Counting()
    executed = run(policy, steps, 20)
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
    assert run(policy, 3, 10, Ensembling) == pytest.approx(list(range(10)))
    assert [prefix.tolist() for prefix, _ in policy.told[1:]] == [[i] for i in range(1, 10)]


def test_a_policy_without_a_prefix_is_asked_as_it_is():
    policy = Counting(prefix_future=0)
    run(policy, 2, 6)
    assert policy.told == [(None, None)] * 3


def test_an_episode_begins_anew():
    policy = Counting()
    predict = PrefixConditionedPolicy(policy, 2, 0)
    for frame in (0, 2, 0, 2):
        predict({"frame_index": np.array([frame])})
    assert policy.told[2] == (None, None) and policy.told[3][1].tolist() == [0, 1]
