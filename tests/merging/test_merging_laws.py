"""Laws of the merging rules, on any arrays: what must hold whatever the checkpoints are."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xp.merging import rules

quick = settings(max_examples=60, deadline=None)
finite = st.floats(-8, 8, width=32)


def rows(count, least=1, most=40):
    """Arrays [count, n] float32."""
    count = st.just(count) if isinstance(count, int) else count
    return st.tuples(count, st.integers(least, most)).flatmap(lambda shape: arrays(np.float32, shape, elements=finite))


def simplex(count):
    """Weights that sum to one."""
    return st.lists(st.floats(0.01, 1), min_size=count, max_size=count).map(lambda w: np.array(w) / np.sum(w))


def mixed(given, weights):
    return rules.linear(list(given), weights, np.empty(given.shape[1], np.float32))


@quick
@given(rows(st.integers(1, 5)), st.data())
def test_a_weight_of_one_gives_that_array_bit_for_bit(given, data):
    chosen = data.draw(st.integers(0, len(given) - 1))
    assert mixed(given, np.eye(len(given))[chosen]).tobytes() == given[chosen].tobytes()


@quick
@given(rows(st.integers(1, 5)), st.data())
def test_a_mix_stays_between_the_least_and_the_largest_and_forgets_the_order(given, data):
    weights = data.draw(simplex(len(given)))
    order = data.draw(st.permutations(range(len(given))))
    mix = mixed(given, weights)
    room = 1e-5 * (1 + np.abs(given).max(axis=0))
    assert np.all(mix >= given.min(axis=0) - room) and np.all(mix <= given.max(axis=0) + room)
    np.testing.assert_allclose(mixed(given[order], weights[order]), mix, rtol=1e-5, atol=1e-5)


@quick
@given(rows(1), st.integers(2, 6))
def test_copies_of_one_array_average_to_it(given, count):
    np.testing.assert_allclose(mixed(np.repeat(given, count, axis=0), np.full(count, 1 / count)), given[0], rtol=1e-6)


@quick
@given(rows(3), st.data())
def test_task_arithmetic_at_scale_one_is_the_mix_and_at_zero_the_base(given, data):
    base, tuned, weights = given[0], given[1:], data.draw(simplex(2))
    whole = rules.task_arithmetic(base, list(tuned), weights, 1.0)
    np.testing.assert_allclose(whole, mixed(tuned, weights), rtol=1e-4, atol=1e-4)
    assert np.array_equal(rules.task_arithmetic(base, list(tuned), weights, 0.0), base)


@quick
@given(rows(3), st.floats(0, 2))
def test_ties_of_one_model_that_drops_nothing_walks_towards_it(given, scale):
    base, tuned = given[0], given[1]
    found = rules.ties(base, [tuned], [1.0], scale, [0.0])
    np.testing.assert_allclose(found, base + np.float32(scale) * (tuned - base), rtol=1e-4, atol=1e-4)


@quick
@given(rows(4), st.floats(0.1, 5))
def test_ties_lies_between_what_has_the_elected_sign(given, threshold):
    base, tuned = given[0], given[1:]
    moved = rules.ties(base, list(tuned), [1.0] * 3, 1.0, [threshold] * 3) - base
    vectors = np.where(np.abs(tuned - base) >= np.float32(threshold), tuned - base, 0)
    room = 1e-4 * (1 + np.abs(vectors).max(axis=0))
    assert np.all(moved <= np.maximum(vectors, 0).max(axis=0) + room)
    assert np.all(moved >= np.minimum(vectors, 0).min(axis=0) - room)
    assert np.all((vectors != 0).any(axis=0) | (np.abs(moved) <= room))


@quick
@given(rows(3), simplex(2), st.integers(0, 2**32), st.integers(0, 1000))
def test_dare_that_drops_nothing_is_task_arithmetic(given, weights, key, start):
    draws = [rules.uniform_draws(key + k, start, given.shape[1]) for k in range(2)]
    assert all(((draw >= 0) & (draw < 1)).all() for draw in draws)
    found = rules.dare(given[0], list(given[1:]), weights, 0.7, 0.0, draws)
    plain = rules.task_arithmetic(given[0], list(given[1:]), weights, 0.7)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)


@quick
@given(st.integers(0, 2**32), st.integers(0, 500), st.integers(1, 60), st.integers(0, 59))
def test_draws_do_not_depend_on_how_the_work_is_cut(key, start, count, cut):
    cut = min(cut, count)
    whole = rules.uniform_draws(key, start, count)
    parts = [rules.uniform_draws(key, start, cut), rules.uniform_draws(key, start + cut, count - cut)]
    assert np.array_equal(whole, np.concatenate(parts))


@quick
@given(rows(2, least=2), st.floats(0, 1))
def test_slerp_begins_and_ends_at_its_arrays_and_keeps_equal_lengths(given, t):
    unit = given.astype(np.float64)
    lengths = np.linalg.norm(unit, axis=1)
    assume(lengths.min() > 0.1)
    unit /= lengths[:, None]
    products = unit @ unit.T
    assume(abs(products[0, 1]) < 0.99)
    np.testing.assert_allclose(rules.slerp_weights(products, 0.0), [1, 0], atol=1e-12)
    np.testing.assert_allclose(rules.slerp_weights(products, 1.0), [0, 1], atol=1e-12)
    assert abs(np.linalg.norm(rules.slerp_weights(products, t) @ unit) - 1) < 1e-9
    middle = rules.slerp_weights(products, 0.5)
    np.testing.assert_allclose(rules.karcher_weights(products, [0.5, 0.5]), middle, rtol=1e-6)


@quick
@given(rows(st.integers(2, 4), least=2), st.data())
def test_the_karcher_mean_forgets_the_order_and_of_one_direction_is_the_mix(given, data):
    wide = given.astype(np.float64) + 10.0  # in one half-space, where the mean is unique
    products = wide @ wide.T
    weights, order = data.draw(simplex(len(wide))), data.draw(st.permutations(range(len(wide))))
    found = rules.karcher_weights(products, weights)
    again = rules.karcher_weights(products[np.ix_(order, order)], weights[order])
    np.testing.assert_allclose(again, found[order], rtol=1e-5, atol=1e-7)
    same = np.outer(np.ones(3), wide[0])
    np.testing.assert_allclose(rules.karcher_weights(same @ same.T, [1, 1, 1]).sum(), 1.0, rtol=1e-6)


@quick
@given(rows(st.integers(2, 5)))
def test_model_stock_goes_all_the_way_only_where_models_agree(given):
    wide = given.astype(np.float64)
    assume((np.linalg.norm(wide, axis=1) > 0.1).all())
    ratio = rules.model_stock_ratio(wide @ wide.T)
    assert 0.0 <= ratio <= 1.0
    assert rules.model_stock_ratio(np.ones((3, 3))) == 1.0
    assert rules.model_stock_ratio(np.eye(3)) == 0.0


@quick
@given(st.integers(1, 8), st.floats(0, 1))
def test_moving_average_weights_are_its_recursion_without_the_pull_to_its_start(count, decay):
    weights = rules.ema_weights(count, decay)
    state, whole = np.zeros(count), 0.0
    for k in range(count):
        state, whole = decay * state + (1 - decay) * np.eye(count)[k], decay * whole + 1 - decay
    assert np.isclose(weights.sum(), 1)
    assert np.all(np.diff(weights) >= 0), "a newer checkpoint never weighs less than an older one"
    if decay < 0.999:
        np.testing.assert_allclose(weights, state / whole, atol=1e-9)


@quick
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_inverse_loss_weights_order_as_the_losses_do(losses):
    weights = rules.inverse_loss_weights(losses)
    assert np.isclose(weights.sum(), 1.0)
    order = np.argsort(losses)
    assert np.all(np.diff(weights[order]) <= 1e-12)
    np.testing.assert_allclose(rules.inverse_loss_weights(np.multiply(losses, 4.0)), weights, rtol=1e-4)
