"""Who is drawn when: shares hold from the first places on, and every place is found without the ones before it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.data.mixture.draw import Draws

SHARES = st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(lambda shares: sum(shares) > 0)
PHASES = st.integers(0, 2**64 - 1)
PLACES = st.integers(0, 10**12)


def counts(draws: Draws, start: int, stop: int) -> np.ndarray:
    return np.bincount(draws.parts(start, stop), minlength=len(draws.shares))


def test_no_interval_is_missed_by_half_a_percent_of_a_thousand_places():
    # The bound that the module states, for every interval at once: gaps of the sorted points decide the worst one.
    count = 1000
    points = np.sort((np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.float64) / 2.0**64)
    ahead = np.arange(1, count + 1) - count * points  # points up to here, minus their due
    # An arc (closed) from one point to another holds `ahead` of its end minus `ahead` of its beginning, plus one.
    worst = ahead.max() - ahead.min() + 1
    assert worst < 5


@given(SHARES, PHASES, PLACES)
def test_shares_lie_within_half_a_percent_after_a_thousand_batches_wherever_they_begin(shares, phase, start):
    draws = Draws(shares, phase)
    for batch in (1, 4):
        found = counts(draws, start, start + 1000 * batch) / (1000 * batch)
        assert np.abs(found - draws.shares).max() < 0.005


@given(SHARES, PHASES, st.integers(0, 3000))
def test_counting_without_looking_gives_what_looking_at_each_place_gives(shares, phase, place):
    draws = Draws(shares, phase)
    assert draws.before(place) == tuple(counts(draws, 0, place))


@given(SHARES, PHASES, PLACES, st.integers(1, 64), st.integers(1, 64))
def test_a_batch_is_the_beginning_of_a_larger_one(shares, phase, start, small, more):
    draws = Draws(shares, phase)
    parts, numbers = draws.numbered(start, start + small + more)
    for wanted, (first, second) in zip(
        (parts, numbers),
        zip(draws.numbered(start, start + small), draws.numbered(start + small, start + small + more), strict=True),
        strict=True,
    ):
        np.testing.assert_array_equal(wanted, np.concatenate([first, second]))


@given(SHARES, PHASES)
def test_each_part_is_numbered_without_gaps(shares, phase):
    parts, numbers = Draws(shares, phase).numbered(0, 500)
    for part in range(len(shares)):
        own = numbers[parts == part]
        np.testing.assert_array_equal(own, np.arange(len(own)))


@given(SHARES, PHASES, st.integers(0, 8))
def test_a_part_of_no_share_is_never_drawn_and_changes_nothing(shares, phase, place):
    place = min(place, len(shares))
    with_none = Draws([*shares[:place], 0.0, *shares[place:]], phase)
    found = with_none.parts(0, 300)
    assert place not in found
    np.testing.assert_array_equal(found - (found > place), Draws(shares, phase).parts(0, 300))


@given(SHARES, PHASES, st.floats(1e-3, 1e3))
def test_only_the_ratio_of_shares_counts(shares, phase, factor):
    plain, scaled = Draws(shares, phase), Draws([share * 4.0 for share in shares], phase)
    np.testing.assert_array_equal(plain.parts(0, 300), scaled.parts(0, 300))  # a power of two: exact in floats
    assert np.allclose(Draws([share * factor for share in shares], phase).shares, plain.shares)


def test_far_places_cost_no_more_than_near_ones():
    draws = Draws([0.7, 0.3], 1)
    before = draws.before(10**15)
    assert sum(before) == 10**15
    assert before[0] / 10**15 == pytest.approx(0.7, abs=1e-12)
