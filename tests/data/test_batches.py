import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_made_up import made_up, made_up_frames
from hypothesis import given
from hypothesis import strategies as st

from xp.data import Batches, Windows, in_order
from xp.errors import UserError


def batches_of(n: int, batch_size: int, seed: int = 0, drop_rate: float = 0.0) -> Batches:
    dataset = made_up([n])
    windows = Windows(dataset, made_up_frames(dataset), [0], history=1, horizon=2)
    return Batches(windows, batch_size=batch_size, seed=seed, drop_rate=drop_rate)


def same(one: dict, other: dict) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[key], other[key]) for key in one)


sizes = st.tuples(st.integers(1, 23), st.integers(1, 30), st.integers(0, 2**40))


@given(sizes)
def test_each_epoch_visits_each_window_exactly_once(size):
    n, batch_size, seed = size
    batches = batches_of(n, batch_size, seed)
    stream = np.concatenate([batches.indices(step) for step in range(-(-3 * n // batch_size))])
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


@given(sizes, st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_a_batch_does_not_depend_on_what_was_asked_before(size, steps):
    n, batch_size, seed = size
    asked = batches_of(n, batch_size, seed, drop_rate=0.5)
    for step in steps:
        assert same(asked.at(step), batches_of(n, batch_size, seed, drop_rate=0.5).at(step))


@given(sizes, st.integers(0, 10))
def test_resuming_gives_the_rest_of_the_same_sequence(size, start):
    n, batch_size, seed = size
    straight, resumed = batches_of(n, batch_size, seed), batches_of(n, batch_size, seed)
    whole = [straight.indices(step).tolist() for step in range(start + 5)]
    assert [resumed.indices(step).tolist() for step in range(start, start + 5)] == whole[start:]


def test_another_process_gives_the_same_batches():
    code = (
        "from test_batches import batches_of; b = batches_of(50, 16, seed=7, drop_rate=0.5)\n"
        "print([b.indices(s).tolist() for s in (0, 3, 40)], b.at(5)['observation_is_dropped'].tolist())"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    batches = batches_of(50, 16, seed=7, drop_rate=0.5)
    dropped = batches.at(5)["observation_is_dropped"].tolist()
    assert done.stdout.strip() == f"{[batches.indices(s).tolist() for s in (0, 3, 40)]} {dropped}"


def test_epochs_and_seeds_shuffle_differently():
    one = batches_of(50, 50)
    orders = {tuple(one.indices(step).tolist()) for step in range(4)} | {
        tuple(batches_of(50, 50, 1).indices(0).tolist())
    }
    assert len(orders) == 5 and tuple(range(50)) not in orders


def test_every_window_is_equally_likely_first():
    firsts = np.concatenate([[batches_of(6, 1, seed).indices(0)[0]] for seed in range(600)])
    counts = np.bincount(firsts, minlength=6)
    assert np.abs(counts - 100).max() < 4 * np.sqrt(600 * (1 / 6) * (5 / 6))


def test_dropping_has_its_rate_and_does_not_disturb_the_order():
    plain, dropping = batches_of(40, 10), batches_of(40, 10, drop_rate=0.3)
    drawn = np.concatenate([dropping.at(step)["observation_is_dropped"] for step in range(400)])
    assert abs(drawn.mean() - 0.3) < 4 * np.sqrt(0.21 / len(drawn))
    assert "observation_is_dropped" not in plain.at(0)
    assert all(plain.indices(step).tolist() == dropping.indices(step).tolist() for step in range(9))
    assert batches_of(40, 10, drop_rate=1.0).at(3)["observation_is_dropped"].all()


def test_epoch_counts_passes_over_the_data():
    batches = batches_of(10, 4)
    assert batches.steps_per_epoch == 3
    assert [batches.epoch(step) for step in (0, 5, 10)] == [0.0, 2.0, 4.0]


@given(st.integers(1, 40), st.integers(1, 11), st.one_of(st.none(), st.integers(1, 50)))
def test_in_order_goes_once_through_an_even_sample(n, batch_size, limit):
    windows = batches_of(n, 1).windows
    ordered = in_order(windows, batch_size, limit)
    seen = [batch["frame_index"].tolist() for batch in ordered]
    flat = [i for batch in seen for i in batch]
    assert len(seen) == len(ordered) and all(len(batch) == batch_size for batch in seen[:-1])
    assert flat == sorted(set(flat)) and len(flat) == min(limit or n, n)
    gaps = np.diff([*flat, flat[0] + n])
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0, "seed": 0}, "batch_size=0"),
        ({"batch_size": 1, "seed": -1}, "seed=-1"),
        ({"batch_size": 1, "seed": 0, "drop_rate": 1.5}, "1.5"),
    ],
)
def test_impossible_batches_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        Batches(batches_of(3, 1).windows, **options)
