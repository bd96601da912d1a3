"""Chunks executed in real time: the last one rules while the next is computed, and a policy is told the plan."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from drift_suite import DriftSuite
from hypothesis import given
from hypothesis import strategies as st

from xp.envs.evaluate import evaluate, open_pool
from xp.envs.maker import EnvMaker
from xp.envs.pool import Asked
from xp.envs.rollout import Execution, RealTime
from xp.errors import UserError
from xp.models.acting import BatchedPolicy
from xp.models.policy import PolicySpec

STEPS, DELAY, HORIZON = 3, 2, 6
HOW = Execution(chunk_steps=STEPS, name="real_time", delay=DELAY)


class Planner:
    """A policy that takes plans, notes what it was told, and answers by its state and its noise."""

    spec = PolicySpec(horizon=HORIZON, action_dim=2, state_dim=2, cameras={"above": (4, 4, 3)}, takes_plan=True)

    def __init__(self):
        self.told = []

    def predict(self, observation, *, seed=0, **options):
        self.told.append(options)
        state = np.asarray(observation["observation.state"])[:, -1:]
        noise = np.stack([np.random.default_rng(int(number)).standard_normal((HORIZON, 2)) for number in seed])
        plan = np.asarray(options["plan"])[:, :1] if options else 0.0
        return (np.sin(7 * state) + 0.1 * noise + 0.5 * plan).astype(np.float32)


def results_of(policy, how=HOW, *, places=None, batch=4, seeds=range(5)):
    envs = EnvMaker(DriftSuite(), (("above", (4, 4)),), environment_state=False)
    with closing(open_pool(envs, how, workers=1, batch=batch, episodes=len(seeds), places=places)) as pool:
        answer = BatchedPolicy(policy, seed=1, batch=batch)
        return {each.seed: each for each in evaluate(pool, [Asked("drift", seed) for seed in seeds], answer)}


@given(st.integers(1, 6), st.data())
def test_the_newest_answer_that_has_arrived_rules(steps, data):
    delay = data.draw(st.integers(0, steps))
    acting = RealTime(steps, delay)
    for now in range(5 * steps):
        if acting.wants_chunk:
            assert now % steps == 0
            assert len(acting.planned) == (delay if now else 0)
            acting.add(np.array([[now, index] for index in range(steps + delay)], float))
        asked = max((query for query in range(0, now + 1, steps) if query + delay <= now), default=0)
        np.testing.assert_array_equal(acting.next(), [asked, now - asked])


def test_a_policy_is_told_what_is_left_and_how_much_of_it_is_executed_meanwhile():
    policy = Planner()
    results = results_of(policy)
    first, later = (list(filter(lambda told: bool(told) == is_told, policy.told)) for is_told in (False, True))
    assert first and later and all(told["delay"] == DELAY for told in later)
    assert {np.shape(told["plan"]) for told in later} == {(4, HORIZON - STEPS, 2)}
    assert all(result.queries == -(-result.steps // STEPS) for result in results.values())
    waits = results_of(Planner(), replace(HOW, delay=0))
    assert any(waits[seed].steps != result.steps for seed, result in results.items()) or waits != results


def test_what_is_asked_together_changes_no_result():
    alone = results_of(Planner(), places=1, batch=1)
    assert results_of(Planner()) == alone
    answer, policy = BatchedPolicy(Planner(), seed=1, batch=4), Planner()
    policy.spec = replace(Planner.spec, takes_plan=False)
    results_of(policy)
    assert not any(policy.told) and answer.batch == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "receding"}, "chunk_size.delay=2 with chunk_size.execution=receding"),
        ({"delay": 4}, "chunk_size.delay=4 with chunk_size.execution=real_time and chunk_size.steps=3"),
        ({"delay": -1}, "chunk_size.delay=-1"),
        ({"name": "realtime", "delay": 0}, "There is no execution 'realtime'.*real_time"),
    ],
)
def test_delays_that_cannot_be_are_refused(changed, said):
    with pytest.raises(UserError, match=said):
        replace(HOW, **changed)


def test_a_chunk_that_ends_before_the_next_answer_is_refused():
    with pytest.raises(UserError, match=r"where \[at least 7, 2\] is needed"):
        results_of(Planner(), Execution(chunk_steps=4, name="real_time", delay=3))
