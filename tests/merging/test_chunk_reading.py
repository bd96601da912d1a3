"""Chunks of zarr arrays are read in pieces, compressed or not, and say what is missing."""

import json
from itertools import pairwise

import numpy as np
import pyarrow
import pytest
import tensorstore
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_made_up import leaves_of

from xp.checkpoints import chunk_stream, orbax
from xp.checkpoints.arrays import CorruptFileError
from xp.checkpoints.chunk_stream import ChunkStream, PlainChunks, Values
from xp.models.pi0.io.folder import new_tree

CHUNK = 1000


def store_of(chunks):
    store = tensorstore.KvStore.open("memory://").result()
    for number, data in enumerate(chunks):
        store.write(f"a/{number}", bytes(data)).result()
    return store, [f"a/{number}" for number in range(len(chunks))]


def drawn(count=3, size=CHUNK):
    """Values that compress a little, and the chunks they lie in."""
    values = np.random.default_rng(0).integers(0, 200, count * size).astype(np.uint8)
    return values, [values[first : first + size] for first in range(0, count * size, size)]


def packed(chunk):
    return pyarrow.Codec("zstd").compress(chunk.tobytes(), asbytes=True)


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(chunk_stream, "WINDOW", 64)
    monkeypatch.setattr(chunk_stream, "PLAIN_WINDOW", 64)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("size", [1, 63, 64, 65, 128, 1000])
def test_a_value_is_read_to_its_end(size):
    content = bytes(number % 251 for number in range(size))
    store, keys = store_of([content])
    value, found = Values(store, keys[0]), []
    while data := value.read(1 << 20):
        found.append(data)
    assert b"".join(found) == content and max(map(len, found)) <= 64
    assert len(found) == -(-size // 64)


@pytest.mark.usefixtures("small_windows")
@settings(max_examples=20)
@given(cuts=st.sets(st.integers(0, 3 * CHUNK), max_size=6))
def test_a_stream_decodes_what_whole_chunks_hold(cuts):
    values, chunks = drawn()
    store, keys = store_of([packed(chunk) for chunk in chunks])
    stream = ChunkStream(store, keys, CHUNK)
    for start, stop in pairwise(sorted({0, *cuts, len(values)})):
        room = np.empty(stop - start, np.uint8)
        stream.read_into(room)
        np.testing.assert_array_equal(room, values[start:stop])


@pytest.mark.usefixtures("small_windows")
@settings(max_examples=20)
@given(start=st.integers(0, 3 * CHUNK - 1), data=st.data())
def test_plain_chunks_are_read_in_any_range(start, data):
    values, chunks = drawn()
    stop = data.draw(st.integers(start + 1, len(values)))
    found = PlainChunks(*store_of(chunks), CHUNK).read(start, stop, lambda count: np.empty(count, np.uint8))
    np.testing.assert_array_equal(found, values[start:stop])


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[: len(data) // 2], "ends too early|does not decode"),
        (lambda data: b"", "ends too early|does not decode"),
        (lambda data: b"no zstd" + data, "does not decode"),
    ],
)
def test_a_stream_that_is_cut_short_is_refused(change, said):
    _, chunks = drawn()
    store, keys = store_of([change(packed(chunk)) for chunk in chunks])
    with pytest.raises(CorruptFileError, match=said):
        ChunkStream(store, keys, CHUNK).read_into(np.empty(CHUNK, np.uint8))


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], "has 39 bytes where 40 should be"),
        (lambda data: data[:500], "cannot be read|has .* bytes where"),
        (lambda data: [*data, 0], "has 41 bytes where 40 should be"),
    ],
)
def test_a_plain_chunk_of_another_length_is_refused(change, said):
    _, chunks = drawn()
    with pytest.raises(CorruptFileError, match=said):
        PlainChunks(*store_of([change(chunks[0])]), CHUNK).read(0, CHUNK, lambda count: np.empty(count, np.uint8))


def test_chunks_that_are_not_there_are_named():
    store, _ = store_of([])
    with pytest.raises(CorruptFileError, match="there is no chunk a/7"):
        PlainChunks(store, ["a/7"], CHUNK).read(0, 10, lambda count: np.empty(count, np.uint8))
    with pytest.raises(CorruptFileError, match="there is no chunk a/7"):
        ChunkStream(store, ["a/7"], CHUNK).read_into(np.empty(10, np.uint8))


@pytest.mark.parametrize("chunks", [(2, 5, 4), (1, 5, 4), (1, 1, 4), (3, 5, 4), (2, 3, 4), (3, 5, 2)])
@pytest.mark.parametrize("compressor", [None, {"id": "zstd", "level": 1}])
def test_chunks_of_any_shape_give_the_same_values(tmp_path, chunks, compressor):
    """Those that are ranges of the flattened array and those that are not, as other programs write them."""
    array = np.arange(60, dtype=np.float32).reshape(3, 5, 4)
    leaves = leaves_of({"a": array})
    tree = new_tree(leaves)
    params = tmp_path / "params"
    params.mkdir()
    (params / orbax.METADATA).write_text(
        json.dumps({**tree.content, "tree_metadata": {entry.key: entry.content for entry in tree.entries.values()}})
    )
    metadata = {"shape": array.shape, "chunks": chunks, "dtype": "<f4", "compressor": compressor, "fill_value": None}
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": f"file://{params}/", "path": f"{tree.path('a')}/"}}
    tensorstore.open({**spec, "metadata": metadata}, create=True).result().write(array).result()
    reader = orbax.OrbaxReader(params)
    for start, stop in ((0, 60), (7, 33), (20, 40), (59, 60)):
        np.testing.assert_array_equal(reader.read("a", start, stop), array.reshape(-1)[start:stop])
