"""Directions, turns and grippers of predicted actions: counted by hand, and beside what a constant answer reaches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xp.metrics.motion import Meaning, lines, motion_metrics
from xp.metrics.scores import Resampling

FEW = Resampling(seed=0, resamples=1000)


def meaning(windows, unit=1.0, present=0.0):
    return Meaning(
        position=(0, 1),
        rotation=(2,),
        grippers={3: 0.5},
        unit=np.full(4, unit),
        present=np.full((windows, 2), present),
    )


def scored(predictions, truth, valid=None, episodes=None, **changed):
    predictions, truth = np.asarray(predictions, float), np.asarray(truth, float)
    valid = np.ones(truth.shape[:2], bool) if valid is None else np.asarray(valid)
    episodes = np.arange(len(truth)) if episodes is None else np.asarray(episodes)
    return motion_metrics(predictions, truth, valid, episodes, meaning(len(truth), **changed), FEW)


def test_shares_and_errors_are_those_counted_by_hand():
    truth = [[[0.1, -0.3, 0.2, 1]], [[0.5, 0.01, 0.0, 0]], [[-0.2, 0.4, 0.0, 1]]]
    guess = [[[0.2, 0.3, 0.0, 1]], [[0.1, -9.0, 0.0, 1]], [[0.0, 0.4, 0.0, 0.6]]]
    found = scored(guess, truth)
    direction, gripper = found["direction_accuracy"], found["gripper_accuracy"]
    assert (direction["count"], direction["value"]) == (5, 3 / 5)  # 0.01 is still; a guess of 0 has no direction
    assert direction["majority"]["value"] == pytest.approx(3 / 5)  # 2 of 3 up along x, 1 of 2 down along y
    assert (gripper["count"], gripper["value"], gripper["majority"]["value"]) == (3, 2 / 3, 2 / 3)
    assert (direction["target"], gripper["target"]) == (0.5, 0.8)
    assert found["rotation_l1"]["value"] == pytest.approx(0.2 / 3)
    assert found["l1_error"]["num_episodes"] == 3 and gripper["num_episodes"] == 3
    assert len(lines(found)) == 2 and "of 5; always the majority 0.600" in lines(found)[0]


def test_movement_begins_at_the_present_place_and_is_measured_in_units():
    truth, guess = np.full((2, 1, 4), 1.01), np.full((2, 1, 4), 1.2)
    assert "direction_accuracy" not in scored(guess, truth, present=1.0)  # 0.01: still
    assert scored(guess, truth, unit=0.1, present=1.0)["direction_accuracy"]["value"] == 1
    assert scored(guess - 1, truth, unit=0.1, present=1.0)["direction_accuracy"]["value"] == 0


@given(arrays.arrays(float, (6, 2, 4), elements=st.floats(-1, 1)), st.randoms())
def test_no_constant_answer_beats_the_majority_and_padding_counts_nothing(truth, random):
    valid = np.ones((6, 2), bool)
    valid[3:, 1] = False
    constant = np.broadcast_to(np.array([random.choice([-1.0, 1.0]) for _ in range(4)]), truth.shape)
    found = scored(constant, truth, valid, [0, 0, 1, 1, 2, 2])
    for name in ("direction_accuracy", "gripper_accuracy"):
        if name in found:
            assert found[name]["value"] <= found[name]["majority"]["value"] + 1e-12
            assert found[name]["beats_majority"] is False
    other = truth.copy()
    other[3:, 1] = 7.0
    assert found == scored(constant, other, valid, [0, 0, 1, 1, 2, 2])


def test_a_policy_that_is_right_where_both_happen_beats_the_majority():
    rng = np.random.default_rng(0)
    truth = rng.choice([-0.5, 0.5], (40, 2, 4)) + [0, 0, 0, 0.5]
    found = scored(truth, truth, episodes=np.repeat(np.arange(10), 4))
    for name in ("direction_accuracy", "gripper_accuracy"):
        assert found[name]["value"] == 1 and found[name]["beats_majority"] is True
    assert scored(truth, truth, episodes=np.zeros(40, int))["gripper_accuracy"]["beats_majority"] is None  # 1 episode
