"""Orbax folders are written in small chunks, each a range of the flattened array, and read in any range."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_made_up import leaves_of

from xp.checkpoints import orbax
from xp.checkpoints.arrays import Leaf
from xp.models.pi0.io.folder import new_tree

SHAPES = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(orbax, "CHUNK_BYTES", 64)


@given(shape=SHAPES, limit=st.sampled_from([16, 64, 256]))
def test_a_chunk_is_a_range_of_the_flattened_array(shape, limit):
    leaf, before = Leaf("leaf", shape, np.dtype(np.float32)), orbax.CHUNK_BYTES
    try:
        orbax.CHUNK_BYTES = limit
        chunk = orbax.chunk_shape(leaf)
    finally:
        orbax.CHUNK_BYTES = before
    axis = next((i for i, length in enumerate(chunk) if length > 1), len(shape) - 1)
    assert chunk[axis + 1 :] == shape[axis + 1 :]
    assert axis == 0 or shape[axis] % chunk[axis] == 0
    assert math.prod(chunk) * 4 <= max(limit, 4 * max(shape))  # an axis is left whole rather than cut in slivers


@pytest.mark.usefixtures("small_chunks")
@settings(max_examples=25)
@given(shape=SHAPES, data=st.data())
def test_what_is_written_in_pieces_is_read_in_any_range(shape, data, tmp_path_factory):
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    flat, leaves = array.reshape(-1), leaves_of({"a/b": array})
    folder = tmp_path_factory.mktemp("orbax") / "params"
    writer = orbax.OrbaxWriter(folder, leaves, new_tree(leaves))
    step = writer.alignment("a/b") * data.draw(st.integers(1, 3))
    for start in range(0, flat.size, step):
        writer.write("a/b", start, flat[start : start + step])
    writer.close()
    reader = orbax.OrbaxReader(folder)
    for _ in range(5):
        start = data.draw(st.integers(0, flat.size - 1))
        stop = data.draw(st.integers(start + 1, flat.size))
        np.testing.assert_array_equal(reader.read("a/b", start, stop), flat[start:stop])


@pytest.mark.usefixtures("small_chunks")
def test_orbax_restores_them(tmp_path):
    import orbax.checkpoint as ocp

    array = np.random.default_rng(0).standard_normal((3, 2, 8, 4)).astype(np.float32)
    leaves = leaves_of({"a/b": array})
    writer = orbax.OrbaxWriter(tmp_path / "params", leaves, new_tree(leaves))
    assert orbax.chunk_shape(leaves["a/b"]) == (1, 1, 4, 4)
    writer.write("a/b", 0, array.reshape(-1))
    writer.close()
    with ocp.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.restore((tmp_path / "params").absolute())
    np.testing.assert_array_equal(found["params"]["a"]["b"]["value"], array)


def test_no_leaf_of_the_real_size_has_a_chunk_above_eight_megabytes():
    listed = Path(__file__).parents[2].parent / "shared/reference/openpi/pi05_full.param_tree.json"
    if not listed.is_file():
        pytest.skip("the trees of openpi are not beside this checkout (../shared/reference/openpi)")
    for name, (shape, dtype) in json.loads(listed.read_text()).items():
        leaf = Leaf(name, tuple(shape), np.dtype(dtype))
        assert math.prod(orbax.chunk_shape(leaf)) * leaf.dtype.itemsize <= orbax.CHUNK_BYTES, name
