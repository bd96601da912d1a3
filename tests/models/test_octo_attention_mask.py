"""The mask from the group table is the mask of the loop over token pairs, in both conventions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from octo_made_up import REFERENCE, needs_reference

from xp.models.octo.network.attention_mask import Block, attends, attention_mask


@needs_reference
@pytest.mark.parametrize(("key", "correct"), [("correct", True), ("december", False)])
def test_the_mask_of_octo_1_5_is_bit_equal_to_the_saved_one(key, correct):
    prefix = [Block("task_language", 16)]
    steps = [Block("obs_primary", 256), Block("obs_wrist", 64), Block("obs_task_language", 16)]
    mask = attention_mask(prefix, [*steps, Block("readout_action", 1)], 2, correct=correct)
    assert np.array_equal(mask, np.load(REFERENCE / "octo15_attention_mask_w2.npz")[key])


def slow_mask(prefix, steps, history):
    owners = [(block.name, -1) for block in prefix for _ in range(block.tokens)]
    owners += [(b.name, step) for step in range(history) for b in steps for _ in range(b.tokens)]
    return np.array([[attends(q, k) and tk <= tq for k, tk in owners] for q, tq in owners])


blocks = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(task=blocks, obs=blocks, readouts=blocks, history=st.integers(1, 3))
def test_the_table_gives_what_a_loop_over_token_pairs_gives(task, obs, readouts, history):
    prefix = [Block(f"task_{i}", n) for i, n in enumerate(task)]
    steps = [Block(f"obs_{i}", n) for i, n in enumerate(obs)] + [
        Block(f"readout_{i}", n) for i, n in enumerate(readouts)
    ]
    assert np.array_equal(attention_mask(prefix, steps, history), slow_mask(prefix, steps, history))


def test_nobody_attends_to_the_future_or_to_another_readout():
    steps = [Block("obs_primary", 2), Block("readout_action", 1), Block("readout_value", 1)]
    mask = attention_mask([Block("task_language", 1)], steps, 2)
    readout_action, readout_value, next_obs = 3, 4, 5
    assert not mask[readout_action, readout_value] and not mask[readout_value, readout_action]
    assert not mask[:5, next_obs:].any() and mask[next_obs, :3].all()
    assert not mask[[0, 1, 2, 5, 6]][:, [3, 4, 7, 8]].any()
