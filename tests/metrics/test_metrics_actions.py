"""Action errors against numbers computed by hand, and the law that padding never counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xp.metrics import actions

TRUTH = np.array([[[0.0, 0.0], [1.0, 2.0]], [[3.0, -1.0], [9.0, 9.0]]])
PREDICTED = np.array([[[1.0, 0.0], [1.0, 0.0]], [[3.0, 2.0], [0.0, 0.0]]])
VALID = np.array([[True, True], [True, False]])


def test_errors_equal_the_hand_computed_ones_over_valid_steps():
    assert actions.mse(PREDICTED, TRUTH, VALID) == pytest.approx((1 + 4 + 9) / 6)
    assert actions.mae(PREDICTED, TRUTH, VALID) == pytest.approx((1 + 2 + 3) / 6)


def test_without_a_mask_every_step_counts_as_in_the_first_experiments():
    assert actions.mse(PREDICTED, TRUTH) == pytest.approx(np.mean((PREDICTED - TRUTH) ** 2))
    assert actions.mae(PREDICTED, TRUTH) == pytest.approx(np.mean(np.abs(PREDICTED - TRUTH)))


def test_error_curve_and_per_dimension_errors_by_hand():
    np.testing.assert_allclose(actions.per_step(PREDICTED, TRUTH, VALID), [(1 + 0 + 0 + 3) / 4, (0 + 2) / 2])
    np.testing.assert_allclose(actions.per_dimension(PREDICTED, TRUTH, VALID), [1 / 3, 5 / 3])
    np.testing.assert_allclose(actions.per_dimension(PREDICTED, TRUTH, VALID, "squared"), [1 / 3, 13 / 3])


def test_no_valid_step_gives_nan_and_not_zero():
    nothing = np.zeros((2, 2), dtype=bool)
    assert np.isnan(actions.mse(PREDICTED, TRUTH, nothing))
    assert np.isnan(actions.per_step(PREDICTED, TRUTH, nothing)).all()
    assert np.isnan(actions.gripper_accuracy(PREDICTED, TRUTH, nothing))


@given(
    hnp.arrays(np.float64, (4, 3, 2), elements=st.floats(-10, 10)),
    hnp.arrays(bool, (4, 3)),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300]),
)
def test_what_stands_in_padded_steps_changes_nothing(values, valid, rubbish):
    truth = values[::-1].copy()
    spoiled = np.where(valid[..., None], truth, rubbish)
    for function in (actions.mse, actions.mae, actions.per_step, actions.per_dimension, actions.direction_accuracy):
        np.testing.assert_array_equal(function(values, truth, valid), function(values, spoiled, valid))


@given(hnp.arrays(np.float64, (3, 4, 2), elements=st.floats(-10, 10)), st.floats(0.1, 10))
def test_errors_scale_with_the_unit(values, factor):
    truth = np.roll(values, 1, axis=0)
    assert actions.mae(values * factor, truth * factor) == pytest.approx(actions.mae(values, truth) * factor)
    assert actions.mse(values * factor, truth * factor) == pytest.approx(actions.mse(values, truth) * factor**2)


def test_normalised_errors_follow_the_mask_and_leave_constant_dimensions_alone():
    statistics = {"mean": [1.0, 5.0, 2.0], "std": [2.0, 4.0, 0.0], "mask": [True, False, True]}
    np.testing.assert_allclose(actions.scale_of(statistics), [2.0, 1.0, 1.0])
    np.testing.assert_allclose(actions.normalise(np.array([3.0, 7.0, 2.5]), statistics), [1.0, 7.0, 0.5])


def test_the_mean_action_is_zero_in_normalised_units():
    statistics = {"mean": [1.0, -5.0], "std": [2.0, 4.0], "mask": [True, True]}
    np.testing.assert_array_equal(actions.normalise(np.array([1.0, -5.0]), statistics), [0.0, 0.0])


def test_direction_accuracy_counts_only_movements_beyond_the_threshold():
    truth = np.array([[[0.5, -0.5, 0.01, 0.0]]])
    predicted = np.array([[[0.1, 0.1, -1.0, 1.0]]])
    assert actions.direction_accuracy(predicted, truth, threshold=0.02) == 0.5
    assert np.isnan(actions.direction_accuracy(predicted, truth, threshold=1.0))


def test_direction_of_absolute_actions_is_measured_from_the_reference():
    truth, predicted, state = np.array([[[1.2]]]), np.array([[[0.9]]]), np.array([[[1.0]]])
    assert actions.direction_accuracy(predicted, truth) == 1.0
    assert actions.direction_accuracy(predicted, truth, reference=state) == 0.0


def test_a_policy_that_stands_still_gets_no_direction_right():
    assert actions.direction_accuracy(np.zeros((1, 2, 2)), np.ones((1, 2, 2))) == 0.0


def test_gripper_accuracy_compares_sides_of_the_threshold():
    truth = np.array([[[0.0, 0.9], [0.0, 0.1], [0.0, 0.6]]])
    predicted = np.array([[[9.0, 0.6], [9.0, 0.4], [9.0, 0.2]]])
    assert actions.gripper_accuracy(predicted, truth) == pytest.approx(2 / 3)
    assert actions.gripper_accuracy(predicted, truth, np.array([[True, True, False]])) == 1.0
