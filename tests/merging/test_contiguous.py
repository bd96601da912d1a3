"""A copy in blocks is numpy's own copy."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.checkpoints import contiguous as module
from xp.checkpoints.contiguous import contiguous


@given(shape=st.lists(st.integers(0, 9), min_size=0, max_size=4).map(tuple), data=st.data())
def test_any_order_of_axes_is_copied_as_numpy_copies_it(shape, data):
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    array = array.transpose(data.draw(st.permutations(range(len(shape)))))
    before = module.BLOCK
    try:
        module.BLOCK = data.draw(st.sampled_from([1, 2, 3, 256]))
        found = contiguous(array)
    finally:
        module.BLOCK = before
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.uint16, np.float64, np.int8])
@pytest.mark.parametrize("shape", [(256, 512), (257, 300), (1, 1000), (1000, 1), (2, 300, 260)])
def test_every_bit_of_matrices_larger_than_a_block_is_kept(dtype, shape):
    size = np.dtype(dtype).itemsize
    bits = np.random.default_rng(0).integers(0, 256, (*shape[:-1], shape[-1] * size), np.uint8)
    array = bits.view(dtype).swapaxes(-1, -2)  # NaN of every kind among them
    assert contiguous(array).tobytes() == array.tobytes()


def test_what_is_in_order_is_not_copied_and_a_given_place_is_filled():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert contiguous(array) is array
    out = np.zeros((3, 2), ml_dtypes.bfloat16)
    assert contiguous(array.T, out) is out
    np.testing.assert_array_equal(out, array.T.astype(ml_dtypes.bfloat16))
