"""Intervals against known values, exact small cases, and their promised coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.metrics import intervals
from xp.metrics.intervals import Sums


def episodes(values, counts=None):
    values = np.asarray(values, dtype=np.float64)
    counts = np.ones_like(values) if counts is None else np.asarray(counts, dtype=np.float64)
    return Sums(episodes=np.arange(len(values)), sums=values * counts, counts=counts, windows=len(values))


def test_sums_by_episode_by_hand():
    values = np.array([[1.0, 2.0], [3.0, 99.0], [5.0, 7.0]])
    valid = np.array([[True, True], [True, False], [True, True]])
    pooled = intervals.sum_by_episode(values, valid, np.array([4, 4, 9]))
    np.testing.assert_array_equal(pooled.episodes, [4, 9])
    np.testing.assert_array_equal(pooled.sums, [6, 12])
    np.testing.assert_array_equal(pooled.counts, [3, 2])
    assert pooled.mean() == pytest.approx(18 / 5)
    curve = intervals.sum_by_episode(values, valid, np.array([4, 4, 9]), per_step=True)
    np.testing.assert_allclose(curve.mean(), [9 / 3, 9 / 2])


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30), st.integers(0, 1000))
def test_the_interval_holds_the_estimate_and_is_ordered(values, seed):
    data = episodes(values)
    low, high = intervals.interval(data, seed=seed, resamples=1000)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    if len(values) >= 5 and np.ptp(values) > 0:
        assert low <= data.mean() * (1 + 1e-9) + 1e-9
        assert high >= data.mean() * (1 - 1e-9) - 1e-9


def test_equal_episodes_give_an_interval_of_no_width():
    low, high = intervals.interval(episodes([2.0] * 8))
    assert low == pytest.approx(2.0)
    assert high == pytest.approx(2.0)


def test_one_episode_gives_no_interval():
    entry = intervals.bootstrap(episodes([1.0]))
    assert (entry["low"], entry["high"], entry["n_episodes"]) == (None, None, 1)


def test_the_same_seed_gives_the_same_interval_and_order_of_episodes_does_not_enter_the_estimate():
    values = np.random.default_rng(0).normal(size=12)
    assert intervals.interval(episodes(values), seed=3) == intervals.interval(episodes(values), seed=3)
    assert intervals.interval(episodes(values), seed=3) != intervals.interval(episodes(values), seed=4)
    assert episodes(values).mean() == pytest.approx(episodes(values[::-1]).mean())


def test_windows_of_one_episode_do_not_make_an_interval_shorter():
    values = np.random.default_rng(1).normal(size=10)
    once = intervals.interval(episodes(values))
    hundredfold = intervals.interval(episodes(values, counts=np.full(10, 100)))
    assert hundredfold == pytest.approx(once)


def coverage_of(ends, num, trials=1000):
    draws = np.random.default_rng(2).gamma(4.0, 0.25, size=(trials, num))
    return np.mean([low <= 1.0 <= high for low, high in map(ends, draws)])


@pytest.mark.parametrize("num", [10, 20])
def test_nominal_95_percent_intervals_of_skewed_errors_hold_the_truth_95_percent_of_the_time(num):
    share = coverage_of(lambda values: intervals.interval(episodes(values), resamples=2000), num)
    assert 0.92 <= share <= 0.975


def test_with_six_episodes_the_interval_is_wider_and_more_truthful_than_plain_percentiles():
    def plain(values):
        return np.quantile(intervals._draws(6, 0, 2000) @ values / 6, [0.025, 0.975])

    ours = coverage_of(lambda values: intervals.interval(episodes(values), resamples=2000), 6)
    assert ours > 0.89
    assert ours > coverage_of(plain, 6) + 0.03


def test_pairing_removes_what_is_hard_for_both():
    rng = np.random.default_rng(3)
    hard = rng.uniform(0, 100, size=15)
    better, worse = episodes(hard + 1.0), episodes(hard + 1.5 + rng.normal(0, 0.05, 15))
    difference = intervals.paired_difference(better, worse)
    assert difference["value"] == pytest.approx(-0.5, abs=0.1)
    assert difference["high"] < 0
    assert intervals.interval(better)[1] > intervals.interval(worse)[0]  # unpaired, they overlap


def test_paired_difference_is_antisymmetric():
    rng = np.random.default_rng(4)
    first, second = episodes(rng.normal(size=9)), episodes(rng.normal(size=9))
    there, back = intervals.paired_difference(first, second), intervals.paired_difference(second, first)
    assert there["value"] == pytest.approx(-back["value"])
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))


def test_curves_get_an_interval_per_step_and_empty_steps_get_nan():
    sums = np.array([[1.0, 4.0, 0.0], [3.0, 0.0, 0.0], [2.0, 2.0, 0.0]])
    counts = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    data = Sums(episodes=np.arange(3), sums=sums, counts=counts, windows=3)
    low, high = intervals.interval(data)
    assert low.shape == (3,)
    assert low[0] < 2.0 < high[0]
    assert np.isnan(low[2]) and np.isnan(high[2])


# Wilson score limits as tabulated by Newcombe (1998), Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombes_table(successes, trials, low, high):
    assert intervals.wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_is_ordered_symmetric_and_inside_the_unit_interval(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = intervals.wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = intervals.wilson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_no_trials_say_nothing():
    assert intervals.wilson(0, 0) == (0.0, 1.0)
