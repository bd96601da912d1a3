"""Claims about many episodes at once: who simulates and what is asked together changes no result."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drift_suite import DriftSuite
from hypothesis import given
from hypothesis import strategies as st

from xp.envs import suite_named
from xp.envs.evaluate import OneByOne, evaluate, first_queries, open_pool
from xp.envs.maker import EnvMaker
from xp.envs.other_pictures import OtherPictures, pictures_of
from xp.envs.pool import Asked
from xp.envs.rollout import Execution, Query, rollout
from xp.envs.room import envs_that_fit
from xp.errors import UserError
from xp.models.acting import BatchedPolicy, noise_seed, rows_of
from xp.models.policy import PolicySpec

STEPS = 3
SEEDS = range(9)


class Noisy:
    """A policy that looks at its state, its picture and its noise; each row by itself, whatever stands beside it."""

    spec = PolicySpec(horizon=4, action_dim=2, state_dim=2, cameras={"above": (4, 4, 3)})

    def __init__(self):
        self.sizes = set()

    def predict(self, observation, *, seed=0, **options):
        state = np.asarray(observation["observation.state"])
        self.sizes.add(len(state))
        assert len(observation["task"]) == len(state)
        light = np.asarray(observation["observation.images.above"]).astype(np.float32).mean((1, 2, 3, 4))
        noise = np.stack([np.random.default_rng(int(number)).standard_normal((4, 2)) for number in seed])
        return (np.sin(7 * state[:, -1:] + light[:, None, None]) + 0.1 * noise).astype(np.float32)


class PlaceMatters(Noisy):
    """One whose first row comes out with another last bit."""

    def predict(self, observation, *, seed=0, **options):
        actions = super().predict(observation, seed=seed)
        actions[0] = np.nextafter(actions[0], np.float32(np.inf))
        return actions


class LargeSuite(DriftSuite):
    """One whose envs take half a gigabyte each."""

    env_megabytes = 500


def makes(**options):
    return EnvMaker(DriftSuite(**options), (("above", (4, 4)),), environment_state=False)


def results_of(
    task, *, workers, batch=4, places=None, seeds=SEEDS, policy=None, execution="receding", silence_s=600, **options
):
    """The results by seed, and how often the policy was asked."""
    how = Execution(chunk_steps=STEPS, name=execution, history=2)
    pool = open_pool(
        makes(**options), how, workers=workers, batch=batch, episodes=len(seeds), places=places, silence_s=silence_s
    )
    with closing(pool):
        found = evaluate(
            pool, [Asked(task, seed) for seed in seeds], BatchedPolicy(policy or Noisy(), seed=1, batch=batch)
        )
        return {result.seed: result for result in found}


@pytest.mark.parametrize("execution", ["receding", "ensembling"])
def test_any_number_of_workers_and_envs_gives_the_same_results(execution):
    alone = results_of("drift", workers=1, places=1, execution=execution)
    assert sorted(alone) == list(SEEDS) and {result.success for result in alone.values()} == {True, False}
    for workers, places in ((1, None), (2, None), (3, 5)):
        policy = Noisy()
        frameworks = workers == 1  # a worker process has none
        found = results_of(
            "drift", workers=workers, places=places, policy=policy, execution=execution, frameworks=frameworks
        )
        assert found == alone
        assert policy.sizes == {4}  # every batch has one size


def test_one_env_after_another_gives_the_same_results_as_rollout():
    answer = BatchedPolicy(Noisy(), seed=1, batch=1)
    env = makes().make_new("drift")
    for seed, result in results_of("drift", workers=1, seeds=range(3)).items():
        index = iter(range(100))

        def predict(window, seed=seed, index=index):
            query = Query(
                task="drift", seed=seed, index=next(index), window=dict(window), executed=np.zeros((0, 2)),
                planned=np.zeros((0, 2)),
            )  # fmt: skip
            return answer([query])[0][None]

        assert rollout(env, predict, seeds=[seed], chunk_steps=STEPS, history=2) == [result]


def some_queries(count):
    how = Execution(chunk_steps=STEPS, history=2)
    pool = open_pool(makes(), how, workers=1, batch=count, episodes=count)
    return first_queries(pool, [Asked("drift", seed) for seed in range(count)])


QUERIES = some_queries(7)


@given(st.permutations(range(7)), st.integers(1, 7), st.integers(1, 9))
def test_an_answer_is_a_function_of_its_query_alone(order, asked, batch):
    """In any order, with any of the others beside it, and whatever the size of a batch."""
    alone = BatchedPolicy(Noisy(), seed=3, batch=1)
    expected = [alone([query])[0] for query in QUERIES]
    answers = BatchedPolicy(Noisy(), seed=3, batch=batch)([QUERIES[number] for number in order[:asked]])
    for number, answer in zip(order[:asked], answers, strict=True):
        np.testing.assert_array_equal(answer, expected[number])


@given(st.integers(0, 2**32 - 1), st.text(max_size=9), st.integers(0, 2**31), st.integers(0, 10_000))
def test_noise_is_told_by_run_task_initial_state_and_query(seed, task, initial, index):
    number = noise_seed(seed, task, initial, index)
    assert 0 <= number < 2**32 and number == noise_seed(seed, task, initial, index)
    assert len({number, noise_seed(seed, task, initial, index + 1), noise_seed(seed, task, initial + 1, index)}) == 3


def test_a_policy_whose_answers_depend_on_the_place_is_asked_one_by_one():
    fair, unfair = (BatchedPolicy(policy, seed=0, batch=4) for policy in (Noisy(), PlaceMatters()))
    assert fair.settle(QUERIES[:2]) and fair.batch == 4
    assert not unfair.settle(QUERIES[:2]) and unfair.batch == 1
    forward, backward = unfair(QUERIES), unfair(QUERIES[::-1])[::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_blind_policy_sees_the_pictures_of_other_episodes_at_the_same_query():
    """All else is its own; what is shown has the initial state behind its own, in a circle."""
    shown = {
        seed: [{"observation.images.above": np.full((1, 2, 4, 4, 3), 10 * seed + i)} for i in range(2)]
        for seed in (5, 6)
    }
    seen = []

    class Notes:
        batch = 4

        def __call__(self, queries):
            seen.extend(queries)
            return [np.zeros((4, 2))] * len(queries)

    queries = [replace(QUERIES[0], seed=seed, index=index) for seed, index in ((5, 0), (6, 1), (7, 9))]
    OtherPictures(Notes(), shown, 5)(queries)
    assert [each.window["observation.images.above"][0, 0, 0, 0, 0] for each in seen] == [60, 51, 61]
    for query, other in zip(queries, seen, strict=True):
        np.testing.assert_array_equal(query.window["observation.state"], other.window["observation.state"])


def test_what_a_policy_sees_is_noted_by_initial_state_and_query():
    pool = open_pool(makes(), Execution(chunk_steps=STEPS, history=2), workers=1, batch=2, episodes=2)
    shown = pictures_of(pool, "drift", [3, 4], BatchedPolicy(Noisy(), seed=1, batch=2))
    alone = results_of("drift", workers=1, seeds=[3, 4])
    assert {seed: len(queries) for seed, queries in shown.items()} == {seed: alone[seed].queries for seed in (3, 4)}
    np.testing.assert_array_equal(
        shown[3][0]["observation.images.above"], QUERIES[3].window["observation.images.above"]
    )


def test_observations_of_other_keys_are_not_mixed():
    first, second = QUERIES[0].window, {**QUERIES[1].window, "observation.more": np.zeros((1, 2, 1))}
    with pytest.raises(UserError, match="different keys"):
        rows_of([first, second])


def test_the_episodes_of_a_worker_that_dies_are_run_again(tmp_path):
    undisturbed = results_of("die_once", workers=1, marker=__file__)  # a file that is there: nobody dies
    assert results_of("die_once", workers=2, marker=str(tmp_path / "died")) == undisturbed
    assert (tmp_path / "died").exists()


def test_a_worker_that_hangs_is_ended_and_its_episodes_are_run_again(tmp_path):
    undisturbed = results_of("hang_once", workers=1, marker=__file__)  # a file that is there: nobody hangs
    started = time.monotonic()
    assert results_of("hang_once", workers=2, marker=str(tmp_path / "hung"), silence_s=5) == undisturbed
    assert (tmp_path / "hung").exists() and time.monotonic() - started < 600


def test_no_more_envs_are_made_than_memory_has_room_for():
    small, large = DriftSuite(), LargeSuite()
    assert envs_that_fit(small, 1.0) > 1000
    assert (envs_that_fit(large, 4000.0), envs_that_fit(large, 1.0)) == (4, 1)


def test_an_episode_that_always_ends_its_process_is_named_with_its_last_words(tmp_path):
    with pytest.raises(UserError) as refused:
        results_of("die", workers=2, marker=str(tmp_path / "m"))
    said = str(refused.value)
    assert "task die, seed 5 ended its process 3 times" in said and "the simulator has lost its mind" in said
    assert "killed by signal 9" in said and "eval.workers=1" in said


def test_what_a_suite_refuses_in_a_worker_is_said_here():
    with pytest.raises(UserError, match="^This episode is refused. Type another seed.$"):
        results_of("refuse", workers=2)


def test_a_worker_that_cannot_begin_is_an_error_with_its_last_words(monkeypatch):
    monkeypatch.setattr("xp.worker_process._START", "raise SystemExit('no such simulator here')")
    with pytest.raises(UserError, match=r"(?s)before it could begin .*no such simulator here.*eval.workers=1"):
        results_of("drift", workers=2)


def test_without_gl_a_worker_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "OpenGL").mkdir()
    (tmp_path / "OpenGL/__init__.py").write_text("raise ImportError('no OpenGL on this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for the probe, a process of its own
    monkeypatch.setenv("MUJOCO_GL", "egl")
    envs = EnvMaker(suite_named("arm", {"renderer": "gl"}), (("top", (16, 16)),), environment_state=False)
    pool = open_pool(envs, Execution(chunk_steps=1), workers=2, batch=2, episodes=2)
    with closing(pool), pytest.raises(UserError, match="drawn with OpenGL, but no backend draws.*apt-get install"):
        first_queries(pool, [Asked("push_red", seed) for seed in range(2)])


def test_a_request_to_leave_ends_the_workers():
    how = Execution(chunk_steps=STEPS)
    pool = open_pool(makes(), how, workers=2, batch=2, episodes=99)
    processes = [worker.process for worker in pool._workers]  # pyright: ignore[reportAttributeAccessIssue]
    count = iter(range(100))

    def leave():
        if next(count) == 5:
            raise KeyboardInterrupt

    still = OneByOne(lambda window: np.zeros((1, 4, 2)))
    with pytest.raises(KeyboardInterrupt), closing(pool):
        list(evaluate(pool, [Asked("slow", seed) for seed in range(99)], still, on_wait=leave))
    assert all(process.poll() is not None for process in processes)


PARENT = """
import sys
sys.path[:0] = sys.argv[1:]
from drift_suite import DriftSuite
import numpy as np
from xp.envs.evaluate import OneByOne, evaluate, open_pool
from xp.envs.maker import EnvMaker
from xp.envs.other_pictures import OtherPictures, pictures_of
from xp.envs.pool import Asked
from xp.envs.room import envs_that_fit
from xp.envs.rollout import Execution
pool = open_pool(EnvMaker(DriftSuite(), (), False), Execution(chunk_steps=3), workers=2, batch=2, episodes=9999)
print(*[worker.process.pid for worker in pool._workers], flush=True)
asked = [Asked("slow", seed) for seed in range(9999)]
for result in evaluate(pool, asked, OneByOne(lambda window: np.zeros((1, 4, 2)))):
    print("one", flush=True)
"""


def test_workers_end_with_a_parent_that_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert parent.stdout.readline() == "one\n" and len(pids) == 2 and all(map(alive, pids))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid):
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False
