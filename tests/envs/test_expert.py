"""Claims about the scripted expert and about the success test: the expert passes it, and what must fail it fails."""

import numpy as np
import pytest

from xp.envs import Noop, collect_episode
from xp.envs.arm import ArmEnv, ScriptedExpert, failing_expert
from xp.envs.arm.arm import HOME
from xp.envs.arm.options import FAILING_EXPERTS
from xp.envs.arm.tasks import TASKS
from xp.envs.rollout import rollout
from xp.errors import UserError

SEEDS = range(25)
CONTROLS = ("noop", *FAILING_EXPERTS)


def successes(task, seeds, control=None, **options):
    env = ArmEnv(task, cameras={})
    if control == "noop":
        return [result.success for result in rollout(env, Noop(8), seeds=seeds, chunk_steps=8)]
    expert = failing_expert(env, control) if control else ScriptedExpert(env, **options)
    return [collect_episode(env, expert, seed).success for seed in seeds]


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_succeeds(task):
    assert np.mean(successes(task, SEEDS)) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_succeeds_on_99_of_100_over_500_seeds(task):
    assert np.mean(successes(task, range(500))) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("task", TASKS)
def test_what_must_fail_fails_on_85_of_100_over_100_seeds(task, control):
    assert np.mean(successes(task, range(100), control)) < 0.15


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("task", TASKS)
def test_what_must_fail_fails(task, control):
    assert np.mean(successes(task, range(7), control)) < 0.15


@pytest.mark.parametrize("task", ["red_to_target", "push_red"])
def test_the_wrong_target_control_does_move_the_cube_and_to_another_place(task):
    """A control that stands still would prove no more than `noop`."""
    env = ArmEnv(task, cameras={})
    expert = failing_expert(env, "wrong_target")
    arrived = []
    for seed in range(10):
        collect_episode(env, expert, seed)
        wrong = expert._place()
        assert np.hypot(*(wrong - env.target)) >= 0.079
        arrived.append(np.hypot(*(env.cube_pose("red")[:2] - wrong)) < 0.03)
    assert np.mean(arrived) >= 0.8


def test_the_wrong_cube_control_does_move_the_other_cube_to_the_target():
    env = ArmEnv("red_to_target", cameras={})
    expert = failing_expert(env, "wrong_cube")
    for seed in range(5):
        collect_episode(env, expert, seed)
        assert np.hypot(*(env.cube_pose("blue")[:2] - env.target)) < 0.02


@pytest.mark.parametrize("task", TASKS)
def test_an_experts_episode_takes_30_to_70_steps(task):
    env = ArmEnv(task, cameras={})
    lengths = [len(collect_episode(env, ScriptedExpert(env), seed).action) for seed in range(10)]
    assert 30 <= np.mean(lengths) <= 60 and max(lengths) <= 70


def test_the_expert_hardly_ever_waits():
    """A script that waits asks an imitator to know the time: nearly every command differs from the one before."""
    env = ArmEnv("red_to_target", cameras={})
    episode = collect_episode(env, ScriptedExpert(env), 0)
    moves = np.abs(np.diff(episode.action, axis=0)).max(axis=1)
    assert np.mean(moves[:-6] > 1e-3) == 1.0  # the last steps are the dwell


def test_the_episode_does_not_depend_on_the_control_rate_but_in_its_length():
    slow, fast = (ArmEnv("stack", cameras={}, fps=fps) for fps in (10, 30))
    short = collect_episode(slow, ScriptedExpert(slow), 2)
    long = collect_episode(fast, ScriptedExpert(fast), 2)
    assert short.success and long.success
    assert len(long.action) == pytest.approx(3 * len(short.action), rel=0.12)


def test_noise_is_seeded_and_leaves_the_expert_able():
    def actions(**options):
        env = ArmEnv("red_to_target", cameras={})
        return collect_episode(env, ScriptedExpert(env, **options), 3).action

    clean, noisy = actions(), actions(noise=0.01, seed=5)
    np.testing.assert_array_equal(noisy, actions(noise=0.01, seed=5))
    length = min(len(clean), len(noisy), len(actions(noise=0.01, seed=6)))
    assert not np.array_equal(noisy[:length], actions(noise=0.01, seed=6)[:length])
    assert 0.005 < np.std((noisy[:30] - clean[:30])[:, :5]) < 0.015
    np.testing.assert_array_equal(noisy[:length, 5], clean[:length, 5])
    for task in TASKS:
        assert np.mean(successes(task, range(8), noise=0.02)) >= 0.85


def test_an_intended_action_is_the_executed_one_without_its_noise():
    def episode(noise, label):
        env = ArmEnv("push_red", cameras={})
        return collect_episode(env, ScriptedExpert(env, noise=noise, seed=5), 3, label=label)

    executed, intended = episode(0.01, "executed"), episode(0.01, "intended")
    np.testing.assert_array_equal(executed.state, intended.state)
    noise = executed.action - intended.action
    assert 0.008 < np.std(noise[:, :5]) < 0.012 and not noise[:, 5].any()
    assert abs(np.corrcoef(noise[1:, :5].ravel(), noise[:-1, :5].ravel())[0, 1]) < 0.2
    np.testing.assert_array_equal(episode(0.0, "executed").action, episode(0.0, "intended").action)


def test_who_does_not_say_what_it_meant_is_recorded_with_what_it_did_only():
    class Still:
        def reset(self, episode):
            pass

        def act(self):
            return HOME.astype(np.float32)

    env = ArmEnv("push_red", cameras={}, max_steps=2)
    assert collect_episode(env, Still(), 0).action.shape == (2, 6)
    with pytest.raises(UserError, match="collect.label=intended.*Still.*Type collect.label=executed"):
        collect_episode(env, Still(), 0, label="intended")


@pytest.mark.parametrize("noise", [-0.1, 0.021])
def test_noise_beyond_what_the_expert_bears_is_refused(noise):
    with pytest.raises(UserError, match="0.02"):
        ScriptedExpert(ArmEnv("stack", cameras={}), noise=noise)


def test_a_recorded_action_is_the_command_issued_when_the_observation_was_seen():
    env = ArmEnv("push_red", cameras={"top": (16, 16)})
    episode = collect_episode(env, ScriptedExpert(env), 4)
    assert episode.success and episode.task == "push the red cube to the target"
    length = len(episode.action)
    assert episode.images["top"].shape == (length, 16, 16, 3) and episode.state.shape == (length, 6)
    observation = env.reset(4)
    for step in range(length):
        np.testing.assert_array_equal(observation["observation.state"], episode.state[step])
        np.testing.assert_array_equal(observation["observation.images.top"], episode.images["top"][step])
        result = env.step(episode.action[step])
        observation = result.observation
    assert result.success and result.done
