"""Baselines see only the past; chunks are cut, held or asked again by pure index arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.errors import UserError
from xp.metrics import baselines, horizon

ACTION = np.arange(12, dtype=np.float32).reshape(6, 2)
FRAME = np.array([0, 1, 2, 0, 1, 2])


def test_hold_last_repeats_the_action_before_the_window():
    held = baselines.held_actions(
        ACTION, FRAME, np.array([1, 5]), state=ACTION * 0, mean=np.array([7.0, 8.0]), rule="mean"
    )
    np.testing.assert_array_equal(held, [[0, 1], [8, 9]])
    np.testing.assert_array_equal(baselines.hold_last(held, 3)[1], [[8, 9]] * 3)


@pytest.mark.parametrize(("rule", "expected"), [("mean", [7.0, 8.0]), ("state", [60.0, 70.0])])
def test_at_an_episodes_first_frame_hold_last_uses_the_mean_or_the_state(rule, expected):
    held = baselines.held_actions(ACTION, FRAME, np.array([3]), state=ACTION * 10, mean=np.array([7.0, 8.0]), rule=rule)
    np.testing.assert_array_equal(held, [expected])


@given(st.integers(0, 5), st.integers(0, 2**31 - 1))
def test_hold_last_never_sees_the_window_itself(start, seed):
    changed = ACTION.copy()
    changed[start:] = np.random.default_rng(seed).normal(size=changed[start:].shape)
    options = {"state": ACTION * 0, "mean": np.ones(2), "rule": "mean"}
    before = baselines.held_actions(ACTION, FRAME, np.array([start]), **options)
    np.testing.assert_array_equal(before, baselines.held_actions(changed, FRAME, np.array([start]), **options))


def test_first_frame_rule_takes_the_state_for_joint_targets_and_the_mean_for_steps():
    states = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert baselines.first_frame_rule(states, states + 0.01, mean=states.mean(axis=0)) == "state"
    assert baselines.first_frame_rule(states, states * 0 + 0.01, mean=np.zeros(2)) == "mean"
    assert baselines.first_frame_rule(np.zeros((2, 5)), states, mean=np.zeros(2)) == "mean"


def test_zero_and_mean_baselines_have_the_asked_shape():
    assert baselines.zero_action(3, 4, 2).shape == (3, 4, 2)
    means = baselines.mean_action(3, 4, {"mean": [1.0, 2.0]})
    assert means.shape == (3, 4, 2)
    np.testing.assert_array_equal(means[2, 3], [1, 2])


def test_a_longer_horizon_repeats_the_last_action_and_a_shorter_one_cuts():
    chunk = np.arange(4.0).reshape(1, 2, 2)
    np.testing.assert_array_equal(horizon.extend(chunk, 4)[0, :, 0], [0, 2, 2, 2])
    np.testing.assert_array_equal(horizon.extend(chunk, 1)[0, :, 0], [0])
    np.testing.assert_array_equal(horizon.extend(chunk, 2), chunk)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_cutting_after_extending_is_cutting(trained, asked, longer):
    chunk = np.random.default_rng(0).normal(size=(2, trained, 3))
    np.testing.assert_array_equal(
        horizon.extend(horizon.extend(chunk, asked + longer), asked), horizon.extend(chunk, asked)
    )


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 20))
def test_a_perfect_model_asked_again_is_perfect_on_every_real_step(trained, asked, length):
    starts = np.arange(length)
    frames = horizon.requery_frames(starts, np.full(length, length - 1), trained=trained, horizon=asked)
    assert frames.max() < length
    answers = frames[:, :, None] + np.arange(trained)  # a perfect model answers with the step numbers
    stitched = horizon.join_answers(answers[..., None], asked)[..., 0]
    wanted = starts[:, None] + np.arange(asked)
    real = wanted < length
    np.testing.assert_array_equal(stitched[real], wanted[real])


def test_requery_asks_once_per_trained_horizon():
    frames = horizon.requery_frames(np.array([0, 5]), np.array([9, 9]), trained=4, horizon=8)
    np.testing.assert_array_equal(frames, [[0, 4], [5, 9]])
    assert horizon.requery_frames(np.array([0]), np.array([9]), trained=8, horizon=4).shape == (1, 1)


def test_wrong_horizons_are_answered_with_what_to_type():
    with pytest.raises(UserError, match="Type horizon.predict="):
        horizon.extend(np.zeros((1, 2, 3)), 0)
    with pytest.raises(UserError, match="did you mean 'requery'.*Type horizon.extend="):
        horizon.check_extend("re_query")
