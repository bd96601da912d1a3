"""Claims about the log of finished episodes: one content in whatever order they end; others are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.envs import EpisodeResult
from xp.errors import UserError
from xp.tasks._lib.episode_log import EpisodeLog

POLICIES, TASKS = ["policy", "noop"], ["push", "a,b"]
EPISODES = [(policy, task, seed) for policy in POLICIES for task in TASKS for seed in (3, 20, 100)]


REWARDS = {3: None, 20: 1 / 3, 100: 1.0}


def result(task, seed):
    return EpisodeResult(seed=seed, task=task, success=seed > 3, steps=seed + 1, queries=2, max_reward=REWARDS[seed])


@given(st.permutations(EPISODES), st.integers(0, len(EPISODES)))
def test_it_holds_the_same_whatever_ended_first_and_goes_on_after_any_episode(tmp_path_factory, order, killed_after):
    path = tmp_path_factory.mktemp("log") / "episodes.csv"
    log = EpisodeLog(path, POLICIES, TASKS, resuming=False)
    for policy, task, seed in order[:killed_after]:
        log.add(policy, result(task, seed))
    again = EpisodeLog(path, POLICIES, TASKS, resuming=True)
    assert len(again) == killed_after
    for policy, task, seed in order:
        if not again.has(policy, task, seed):
            again.add(policy, result(task, seed))
    assert again.results("noop", "a,b") == [result("a,b", seed) for seed in (3, 20, 100)]
    lines = path.read_text().splitlines()
    assert lines[0] == "policy,task,seed,success,steps,queries,max_reward"
    assert lines[1] == "policy,push,3,false,4,2,"
    assert lines[-1] == 'noop,"a,b",100,true,101,2,1.0' and len(lines) == 13


@pytest.mark.parametrize(
    "row", ["other,push,3,false,4,2,", "policy,lift,3,false,4,2,", "policy,push,-3,false,4,2,",
            "policy,push,3,maybe,4,2,", "policy,push,3,false,,2,", "policy,push,3,false,4.5,2,",
            "policy,push,3,false,4,2,much"],
)  # fmt: skip
def test_a_row_that_is_no_result_of_this_evaluation_is_refused(tmp_path, row):
    path = tmp_path / "episodes.csv"
    path.write_text(f"policy,task,seed,success,steps,queries,max_reward\n{row}\n")
    with pytest.raises(UserError, match="no result of this evaluation.*Remove the file"):
        EpisodeLog(path, POLICIES, TASKS, resuming=True)


def test_a_new_run_does_not_look_at_what_is_there(tmp_path):
    (tmp_path / "episodes.csv").write_text("rubbish")
    assert len(EpisodeLog(tmp_path / "episodes.csv", POLICIES, TASKS, resuming=False)) == 0
