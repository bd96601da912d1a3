"""Learning-rate schedules."""

import math

import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.errors import UserError
from xp.training.schedules import make_schedule, warmup_note

PEAKS = st.floats(1e-6, 1.0)


def lr(schedule="cosine", peak=3e-4, warmup_steps=10, end_factor=0.1):
    return {"schedule": schedule, "peak": peak, "warmup_steps": warmup_steps, "end_factor": end_factor}


def test_cosine_gives_the_numbers_of_optax():
    ours = make_schedule(lr(), 100)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 3e-4, 10, 100, end_value=3e-5)
    for step in range(110):
        assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-11)


def test_linear_warmup_gives_the_numbers_of_octos_fine_tuning():
    ours = make_schedule(lr("linear_warmup", 3e-5, 100), 1000)
    theirs = optax.join_schedules([optax.linear_schedule(0, 3e-5, 100), optax.constant_schedule(3e-5)], [100])
    for step in [0, 1, 50, 99, 100, 101, 999]:
        assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-12)


def test_linear_decay_gives_the_numbers_of_transformers():
    """Its factor: s / warm-up, then (last - s) / (last - warm-up), at least 0."""
    ours = make_schedule(lr("linear_decay", 2e-4, 30, 0.0), 1000)
    for step in [0, 1, 15, 29, 30, 31, 500, 999, 1000, 2000]:
        factor = step / 30 if step < 30 else max(0.0, (1000 - step) / 970)
        assert ours(step) == pytest.approx(2e-4 * factor, rel=1e-9, abs=1e-15)
    assert make_schedule(lr("linear_decay", 1.0, 0, 0.1), 100)(100) == pytest.approx(0.1)


def test_warmup_cosine_gives_the_numbers_of_openpi():
    """Openpi: warm-up of 1000 steps to 2.5e-5, down to 2.5e-6 at 30000."""
    ours = make_schedule(lr("warmup_cosine", 2.5e-5, 1000, 0.1), 30_000)
    theirs = optax.warmup_cosine_decay_schedule(2.5e-5 / 1001, 2.5e-5, 1000, 30_000, end_value=2.5e-6)
    for step in [0, 1, 2, 500, 999, 1000, 1001, 15_000, 29_999, 30_000]:
        assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-12)


def test_constant_is_the_peak_from_the_first_update_to_the_last():
    schedule = make_schedule(lr("constant", 0.25, 0), 50)
    assert {schedule(step) for step in range(60)} == {0.25}


@given(peak=PEAKS, warmup=st.integers(0, 50), rest=st.integers(1, 200), end=st.floats(0, 1))
def test_a_cosine_stays_between_zero_and_peak_and_rises_then_falls(peak, warmup, rest, end):
    steps = warmup + rest
    schedule = make_schedule(lr("cosine", peak, warmup, end), steps)
    rates = [schedule(step) for step in range(steps + 5)]
    assert all(0.0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[warmup] == pytest.approx(peak)
    assert rates[-1] == pytest.approx(end * peak, abs=1e-12)
    assert all(a <= b for a, b in zip(rates[:warmup], rates[1 : warmup + 1]))
    assert all(a >= b * (1 - 1e-12) for a, b in zip(rates[warmup:], rates[warmup + 1 :]))


@given(
    peak=PEAKS,
    warmup=st.integers(1, 80),
    name=st.sampled_from(["cosine", "linear_warmup", "constant", "warmup_cosine"]),
)
def test_no_schedule_jumps(peak, warmup, name):
    steps = 400
    schedule = make_schedule(lr(name, peak, warmup, 0.0), steps)
    steepest = peak * max(1 / warmup, math.pi / 2 / (steps - warmup))
    for step in range(steps):
        assert abs(schedule(step + 1) - schedule(step)) <= steepest * (1 + 1e-9)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (lr("cosin"), "did you mean 'cosine'"),
        (lr(peak=0.0), r"lr.peak=0.0 is not a positive number"),
        (lr(peak=float("nan")), r"lr.peak=3e-4"),
        (lr(peak="fast"), "lr.peak=fast"),
        (lr(warmup_steps=-1), "negative"),
        (lr(end_factor=1.5), "lr.end_factor=1.5"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_with_what_to_type(section, says):
    with pytest.raises(UserError, match=says):
        make_schedule(section, 100)


def test_a_warm_up_longer_than_the_training_just_rises_and_is_noted():
    section = lr(warmup_steps=50)
    assert [make_schedule(section, 4)(step) for step in range(4)] == pytest.approx([3e-4 * i / 50 for i in range(4)])
    note = warmup_note(section, 4)
    assert note is not None and "lr.warmup_steps=50" in note and "reaches 6% of lr.peak" in note


def test_a_training_that_reaches_the_peak_needs_no_note():
    assert warmup_note(lr(warmup_steps=50), 51) is None
    assert warmup_note(lr(warmup_steps=0), 1) is None
