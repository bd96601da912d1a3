"""Continuity measures: the seed's definitions bit for bit, the rest by hand and by what they must not depend on."""

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.metrics import continuity, smoothness

SCALE = np.array([1.0, 2.0])


def walk(seed, frames=60, joints=6):
    draw = np.random.default_rng(seed)
    return np.cumsum(np.cumsum(draw.normal(size=(frames, joints)), axis=0), axis=0).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_u_v_and_u_a_are_the_variances_of_pandas_to_the_last_bit(seed):
    x = walk(seed, frames=30 + 7 * seed)
    joints = [pandas.Series(joint.astype(np.float64)) for joint in x.T]
    assert continuity.u_v(x) == max(joint.diff().var() for joint in joints)
    assert continuity.u_a(x) == max(joint.diff().diff().var() for joint in joints)


@pytest.mark.parametrize("boundaries", [[20, 40], [2], [57, 59]])
def test_the_boundary_spike_is_the_ratio_of_means_near_and_far(boundaries):
    x = walk(3)
    size = pandas.DataFrame(x.astype(np.float64)).diff().diff().abs()
    near = [f for f in range(2, len(x)) if any(abs(f - b) <= 2 for b in boundaries)]
    far = [f for f in range(2, len(x)) if f not in near]
    expected = size.loc[near].to_numpy().mean() / size.loc[far].to_numpy().mean()
    assert continuity.boundary_spike(x, np.array(boundaries)) == pytest.approx(expected, rel=1e-12)


def test_a_spike_is_not_defined_without_boundaries_or_without_anything_elsewhere():
    assert np.isnan(continuity.boundary_spike(walk(0), np.array([], dtype=int)))
    assert np.isnan(continuity.boundary_spike(walk(0, frames=5), np.array([2])))


def test_measures_by_hand():
    truth = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [4.0, 8.0]])
    x = truth.copy()
    x[2:, 0] += 3.0  # a jump of 3 where the second chunk takes over, at frame 2
    boundaries = np.array([2])
    assert continuity.boundary_jump(x, truth, boundaries, SCALE) == pytest.approx((3 / 1 + 0 / 2) / 2)
    assert continuity.jump_excess(x, truth, boundaries, SCALE) == pytest.approx(((4 - 1) / 1 + 0) / 2)
    assert continuity.velocity_jump(x, truth, boundaries, SCALE) == 0.0
    np.testing.assert_allclose(continuity.tracking_error(x, truth), [3 * 3 / 5, 0])
    assert continuity.mean_speed(x) == pytest.approx((1 + 4 + 1 + 1 + 4 * 2) / 8)


def test_a_change_of_direction_at_a_boundary_is_a_velocity_jump():
    truth = np.arange(6.0)[:, None]
    x = np.array([0.0, 1.0, 2.0, 2.0, 2.0, 2.0])[:, None]  # the chunk from frame 3 on stands still
    assert continuity.velocity_jump(x, truth, np.array([3]), np.ones(1)) == 1.0
    assert continuity.boundary_jump(x, truth, np.array([3]), np.ones(1)) == 1.0
    assert continuity.jump_excess(x, truth, np.array([3]), np.ones(1)) == -1.0


def test_standing_still_is_smooth_but_not_continuous_with_the_demonstration():
    truth = walk(1)
    still = np.repeat(truth[:1], len(truth), axis=0)
    assert continuity.u_a(still) == 0.0 < continuity.u_a(truth)
    assert continuity.boundary_jump(still, truth, np.array([10, 20]), np.ones(6)) > 0
    assert continuity.u_a_ratio(still, truth, np.ones(6)) == 0.0


def test_a_joint_that_never_moves_has_no_ratio():
    truth = walk(2, joints=3)
    truth[:, 1] = 5.0
    ratios = continuity.acceleration_ratios(truth, truth, np.ones(3))
    assert ratios[0] == ratios[2] == 1.0
    assert np.isnan(ratios[1])
    assert continuity.u_a_ratio(truth, truth, np.ones(3)) == pytest.approx(1.0)


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_relative_measures_know_no_units_and_no_origin(seed, factor, offset):
    truth, x, boundaries = walk(seed).astype(float), walk(seed + 1).astype(float), np.array([15, 30, 45])
    scale = truth.std(axis=0)

    def measures(x, truth, scale):
        return (
            continuity.boundary_jump(x, truth, boundaries, scale),
            continuity.velocity_jump(x, truth, boundaries, scale),
            continuity.u_a_ratio(x, truth, scale),
            smoothness.mean_jerk(x, scale, 10.0),
        )

    moved = measures(x * factor + offset, truth * factor + offset, scale * factor)
    np.testing.assert_allclose(moved, measures(x, truth, scale), rtol=1e-6)


def test_the_demonstration_executed_scores_nothing():
    truth, boundaries = walk(4), np.array([10, 30])
    assert continuity.boundary_jump(truth, truth, boundaries, np.ones(6)) == 0
    assert continuity.velocity_jump(truth, truth, boundaries, np.ones(6)) == 0
    assert continuity.jump_excess(truth, truth, boundaries, np.ones(6)) == 0
    np.testing.assert_array_equal(continuity.tracking_error(truth, truth), 0)


def minimum_jerk(frames):
    t = np.linspace(0, 1, frames)
    return (30 * t**2 - 60 * t**3 + 30 * t**4)[:, None]


def test_spectral_arc_length_of_a_minimum_jerk_movement_is_the_published_minus_1_4():
    """Balasubramanian et al. 2015: about -1.4 for a minimum-jerk speed profile of one second."""
    assert smoothness.spectral_arc_length(minimum_jerk(101)[:, 0], 100.0) == pytest.approx(-1.41, abs=0.02)


def test_more_submovements_are_less_smooth_and_amplitude_does_not_count():
    one = smoothness.spectral_arc_length(minimum_jerk(101)[:, 0], 50.0)
    parts = np.concatenate([minimum_jerk(50)[:, 0]] * 2)
    two = smoothness.spectral_arc_length(parts, 50.0)
    assert two < one < 0
    assert smoothness.spectral_arc_length(7 * parts, 50.0) == pytest.approx(two)
    assert np.isnan(smoothness.spectral_arc_length(np.zeros(30), 10.0))


def test_jerk_of_a_cubic_is_its_third_derivative():
    t = np.arange(20)[:, None] / 10.0
    assert smoothness.mean_jerk(t**3, np.ones(1), 10.0) == pytest.approx(6.0)
    assert np.isnan(smoothness.mean_jerk(t[:3], np.ones(1), 10.0))
