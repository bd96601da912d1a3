"""Claims about `env.action=ee_delta`: what a step of the hand means, and that the expert solves the tasks in it."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xp.envs import collect_episode, suite_named
from xp.envs.arm import ArmEnv, ScriptedExpert, failing_expert
from xp.envs.arm.actions import FLOOR, MOVE, TURN, HandSteps
from xp.envs.arm.arm import DOWN, HOME, UnreachableError, forward, inverse
from xp.envs.arm.options import FAILING_EXPERTS
from xp.envs.arm.tasks import TASKS
from xp.envs.rollout import rollout
from xp.errors import UserError
from xp.training.action_layout import ActionLayout

STEPS = HandSteps()
INSIDE = st.tuples(st.floats(0.13, 0.20), st.floats(-0.9, 0.9), st.floats(0.02, 0.09), st.floats(-0.8, 0.8))


def command_at(radius, bearing, height, yaw, grip=0.5):
    tip = np.array([radius * np.cos(bearing), radius * np.sin(bearing), height])
    joints = inverse(tip)
    joints[4] = joints[0] - yaw
    return np.append(joints, grip)


def place(command):
    return np.append(forward(command)[0], command[0] - command[4])


@given(INSIDE, INSIDE)
def test_an_action_leads_to_what_it_was_made_of(begin, end):
    now, wanted = command_at(*begin), command_at(*end, 0.9)
    action = STEPS.action(now, wanted)
    assume(np.abs(action[[0, 1, 2, 5]]).max() < 0.999)  # one step comes as far
    np.testing.assert_allclose(STEPS.command(now, action), wanted, atol=1e-9)
    assert action[3] == action[4] == 0


@given(INSIDE, st.lists(st.floats(-0.25, 0.25), min_size=4, max_size=4), st.integers(1, 7))
def test_parts_of_a_step_one_after_the_other_are_the_whole_step(begin, moves, parts):
    now, step = command_at(*begin), np.array([*moves[:3], 0, 0, moves[3], 0.3])
    gone = now
    for _ in range(parts):
        gone = STEPS.command(gone, np.append(step[:6] / parts, step[6]))
    np.testing.assert_allclose(gone, STEPS.command(now, step), atol=1e-9)


@given(INSIDE, st.lists(st.floats(-3, 3), min_size=7, max_size=7))
def test_a_command_is_within_reach_and_never_farther_than_a_step(begin, action):
    now = command_at(*begin)
    then = STEPS.command(now, np.array(action))
    moved = place(then) - place(now)
    assert np.abs(moved[:3]).max() <= MOVE + 1e-9 and abs(moved[3]) <= TURN + 1e-9
    assert place(then)[2] >= FLOOR - 1e-9 and 0 <= then[5] <= 1
    assert forward(then)[1] == pytest.approx(DOWN)


def test_a_step_out_of_reach_goes_to_the_edge():
    now = command_at(0.20, 0.0, 0.05, 0.0)
    then = STEPS.command(now, np.array([1.0, 0, 0, 0, 0, 0, 0.5]))
    assert 0.20 < place(then)[0] < 0.25
    with pytest.raises(UnreachableError):
        inverse(place(then)[:3] + [1e-4, 0, 0])
    assert place(STEPS.command(then, np.array([-0.2, 0, 0, 0, 0, 0, 0.5])))[0] == pytest.approx(place(then)[0] - 0.01)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_the_hand_goes_where_the_steps_lead(seed):
    env = ArmEnv("stack", cameras={}, action="ee_delta")
    env.reset(seed)
    before = place(env.command)
    for _ in range(4):
        env.step(np.array([-0.1, 0.05, 0.1, 0.7, -0.7, 0.2, 0.5]))  # the two turns out of reach change nothing
    for _ in range(6):
        env.step(np.array([0, 0, 0, 0, 0, 0, 0.5]))
    moved = np.append(4 * MOVE * np.array([-0.1, 0.05, 0.1]), 4 * TURN * 0.2)
    np.testing.assert_allclose(place(env.command) - before, moved, atol=1e-9)
    np.testing.assert_allclose(place(env.state().astype(np.float64)), place(env.command), atol=2e-3)


def test_the_names_say_position_rotation_and_gripper():
    suite = suite_named("arm", {"action": "ee_delta"})
    layout = ActionLayout.from_names(suite.action_names, 7, suite.state_names)
    assert (layout.position, layout.rotation, layout.grippers) == ((0, 1, 2), (3, 4, 5), (6,))
    assert layout.state_dims is None
    assert suite_named("arm", {}).action_names == suite.state_names


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_solves_the_tasks_and_its_steps_are_far_from_the_limits(task):
    env = ArmEnv(task, cameras={}, action="ee_delta")
    episodes = [collect_episode(env, ScriptedExpert(env), seed) for seed in range(5)]
    assert all(episode.success for episode in episodes)
    actions = np.concatenate([episode.action for episode in episodes])
    assert actions.shape[1] == 7 and np.abs(actions[:, :6]).max() < 0.7
    assert not actions[:, 3:5].any() and actions[:, 5].std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_succeeds_on_99_of_100(task):
    env = ArmEnv(task, cameras={}, action="ee_delta")
    assert np.mean([collect_episode(env, ScriptedExpert(env), seed).success for seed in range(100)]) >= 0.99


def test_an_expert_with_noise_says_what_it_meant():
    env = ArmEnv("push_red", cameras={}, action="ee_delta")
    plain, noisy = (collect_episode(env, ScriptedExpert(env, noise=n), 3, label="intended") for n in (0.0, 0.01))
    assert plain.success and noisy.success
    assert not np.array_equal(plain.action[:20], noisy.action[:20])  # it leads back from where the noise has led


@pytest.mark.parametrize("control", ["noop", *FAILING_EXPERTS])
def test_what_must_fail_fails(control):
    env = ArmEnv("red_to_target", cameras={}, action="ee_delta")
    if control == "noop":
        still = suite_named("arm", {"action": "ee_delta"}).noop(8)
        results = rollout(env, still, seeds=range(2), chunk_steps=8)
        np.testing.assert_allclose(env.state()[5], HOME[5], atol=0.02)
    else:
        results = [collect_episode(env, failing_expert(env, control), seed) for seed in range(2)]
    assert not any(result.success for result in results)


def test_a_kind_of_action_that_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"env\.action=ee_delta") as refused:
        ArmEnv("stack", cameras={}, action="ee_deltas")
    assert "joints" in str(refused.value)
    with pytest.raises(UserError, match="7 finite numbers"):
        env = ArmEnv("stack", cameras={}, action="ee_delta")
        env.reset(0)
        env.step(HOME)
