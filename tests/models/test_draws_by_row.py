"""Claims about what rows draw: by their own numbers alone, wherever they stand and whatever stands beside them."""

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.models.jax_keys import row_keys
from xp.models.torch_draws import DrawsByRow, DrawsTogether, predict_by_row

PROBABILITIES = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]])
DRAWS = {
    "randn": lambda rows, given: torch.randn(rows, 5, 3),
    "randn with its size as one": lambda rows, given: torch.randn((rows, 2), device="cpu", dtype=torch.float32),
    "randn_like": lambda rows, given: torch.randn_like(given),
    "normal": lambda rows, given: torch.normal(given, 1.0 + given.abs()),
    "normal of a size": lambda rows, given: torch.normal(0.0, 1.0, (rows, 4)),
    "uniform_": lambda rows, given: torch.empty(rows, 7).uniform_(),
    "normal_": lambda rows, given: torch.zeros(rows, 3).normal_(2.0, 0.5),
    "bernoulli": lambda rows, given: torch.bernoulli(given.sigmoid()),
    "bernoulli_": lambda rows, given: torch.zeros(rows, 9).bernoulli_(0.5),
    "multinomial": lambda rows, given: torch.multinomial(given.exp(), 2, replacement=True),
    "multinomial of several a row": lambda rows, given: torch.multinomial(given.exp().repeat_interleave(3, 0), 1),
    "randint": lambda rows, given: torch.randint(0, 1000, (rows, 4)),
    "one after another": lambda rows, given: torch.randn(rows, 2) + torch.rand(rows, 2),
}


@pytest.mark.parametrize("name", DRAWS)
@given(order=st.permutations(range(4)), seeds=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4, unique=True))
@settings(max_examples=15)
def test_a_torch_row_draws_by_its_own_number(name, order, seeds):
    inputs, numbers = PROBABILITIES.log(), np.array(seeds, np.int64)
    with DrawsByRow(numbers):
        drawn = DRAWS[name](4, inputs)
    with DrawsByRow(numbers[list(order)]):
        moved = DRAWS[name](4, inputs[list(order)])
    assert drawn.shape == moved.shape
    rows, others = drawn.reshape(4, -1), moved.reshape(4, -1)
    assert torch.equal(rows[list(order)], others)


def test_rows_of_different_numbers_draw_differently_and_torchs_generator_is_left_as_it_was():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with DrawsByRow(np.array([1, 2, 1], np.int64)):
        drawn = torch.randn(3, 4)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_rows_own_is_drawn_row_by_row():
    """A network that draws one number for its whole batch, or with a generator of its own, is asked for single rows."""
    for draw in (lambda: torch.rand(()), lambda: torch.randn(5), lambda: torch.randn(2, generator=torch.Generator())):
        with pytest.raises(DrawsTogether), DrawsByRow(np.array([1, 2], np.int64)):
            draw()

    def predict(observation, *, seed, **options):
        torch.manual_seed(seed)
        return (observation["x"] + torch.rand(()).numpy())[:, None, None].astype(np.float32)

    x, seeds = np.array([1.0, 2.0, 3.0]), np.array([7, 8, 9], np.int64)
    found = predict_by_row(predict, {"x": x, "task": ["a", "b", "c"]}, seeds, {})
    back = predict_by_row(predict, {"x": x[::-1], "task": ["c", "b", "a"]}, seeds[::-1].copy(), {})
    assert found.shape == (3, 1, 1)
    np.testing.assert_array_equal(found, back[::-1])


@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), first=st.integers(0, 3), rows=st.integers(1, 8)
)
@settings(max_examples=25)
def test_a_jax_row_draws_as_it_would_alone(seeds, first, rows):
    keys = jax.random.key_data(row_keys(np.array(seeds, np.int64), first, rows))
    for place, key in enumerate(keys, start=first):
        alone = jax.random.key_data(row_keys(seeds[min(place, len(seeds) - 1)], 0, 1))[0]
        np.testing.assert_array_equal(key, alone)
