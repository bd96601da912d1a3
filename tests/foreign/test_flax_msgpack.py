"""Flax's msgpack trees: every array is found where it lies, and nothing else is let in."""

import msgpack
import numpy as np
import pytest
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.foreign.flax_msgpack import Array, Scalar, scan
from xp.foreign.paths import RefusedError


def _array(shape, word, data, kind=1):
    return msgpack.ExtType(kind, msgpack.packb([shape, word, data]))


def _scan(tmp_path, content):
    path = tmp_path / "checkpoint"
    path.write_bytes(content if isinstance(content, bytes) else msgpack.packb(content))
    return scan(path, "the weights")


TREE = {
    "params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(0, np.int8)},
    "n": np.int64(3),
}


def test_what_flax_writes_is_found_without_reading_it(tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(serialization.msgpack_serialize(TREE))
    found = scan(path, "the weights")
    kernel = found["params"]["kernel"]
    assert (kernel.shape, kernel.word, kernel.nbytes) == ((2, 3), "float32", 24)
    assert path.read_bytes()[kernel.offset :][:24] == TREE["params"]["kernel"].tobytes()
    assert found["params"]["bias"].nbytes == 0
    assert found["n"] == Scalar("int64", np.int64(3).tobytes())


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "ends 1 bytes too early"),
        (b"\xc1", "starts no msgpack value"),
        ({"a": msgpack.ExtType(5, b"cos\nsystem\n")}, "extension type 5 is none of Flax's"),
        ({"a": msgpack.ExtType(4, b"x")}, "extension type 4"),
        ({"a": msgpack.Timestamp(1)}, "extension type 255"),
        ({"a": _array([-1], "float32", b"1234")}, r"has the shape \[-1\]"),
        ({"a": _array([2.0], "float32", b"1234")}, r"has the shape \[2.0\]"),
        ({"a": _array([2**40, 2**40], "uint8", b"")}, "has the shape"),
        ({"a": _array(3, "float32", b"")}, "has the shape 3"),
        ({"a": _array([10**12], "uint8", b"1234")}, "has 4 bytes instead of 1,000,000,000,000"),
        ({"a": _array([1], "O", b"12345678")}, "the type of elements 'O' is not known"),
        ({"a": _array([1], "V8", b"12345678")}, "not known"),
        ({"a": _array([1], "float32,float32", b"12345678")}, "not known"),
        ({"a": _array([1], ["x"], b"1234")}, "not known"),
        ({"a": _array("O", b"12345678", 3, kind=3)}, "a number without dtype"),
        ({"a": msgpack.ExtType(3, msgpack.packb([[], "float32", b"12345"]))}, "has 5 bytes"),
        ({"a": msgpack.ExtType(2, msgpack.packb(["x", 1.0]))}, "a complex number without"),
        ({"a": msgpack.ExtType(1, msgpack.packb([[1], "uint8", b"1"]) + b"rest")}, "does not end where it says"),
        ({1: 2}, "1 is not a name of a part"),
        ({"a/b": 2}, "'a/b' is not a name of a part"),
        ({("a",): 2}, r"\['a'\] is not a name of a part"),
        (b"\x82\xa1a\x01\xa1a\x02", "'a' is there twice"),
        (b"\xdf\xff\xff\xff\xff", "announces 8,589,934,590 values and ends after 0 bytes"),
        (b"\xdd\x7f\xff\xff\xff\x01", "announces 2,147,483,647 values"),
        (b"\xdb\x7f\xff\xff\xff", "a text of 2,147,483,647 bytes"),
        (b"\xc6\x7f\xff\xff\xff", "a text of 2,147,483,647 bytes"),
        (b"\xc9\x7f\xff\xff\xff\x01", "ends inside an array"),
        (b"\x91" * 10_000 + b"\x01", "nested deeper than 64"),
        (b"\x81\xa1a" * 5000 + b"\x01", "nested deeper than 64"),
        (b"\xa1\xff", "utf-8"),
        (b"\x01\x02", "1 bytes follow the end"),
    ],
)
def test_what_is_no_tree_of_flax_is_refused_with_what_was_found(tmp_path, content, found):
    with pytest.raises(RefusedError, match=found) as caught:
        _scan(tmp_path, content)
    assert "checkpoint" in str(caught.value) and str(caught.value).isprintable()


def test_more_values_than_a_checkpoint_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("xp.foreign.flax_msgpack.MOST_VALUES", 1000)
    assert _scan(tmp_path, [[]] * 999) == [[]] * 999
    with pytest.raises(RefusedError, match="more than 1,000 values"):
        _scan(tmp_path, [[]] * 1000)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4), st.integers(0, 200))
def test_any_change_of_a_valid_file_finds_arrays_inside_it_or_is_refused(tmp_path_factory, changes, cut):
    data = bytearray(serialization.msgpack_serialize(TREE))
    for at, byte in changes:
        data[at % len(data)] = byte
    data = data[: len(data) - cut] if cut < 20 else data
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(data)
    try:
        waiting = [scan(path, "the weights")]
    except RefusedError as error:
        assert str(error).isprintable()
        return
    while waiting:
        node = waiting.pop()
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        if isinstance(node, Array):
            assert 0 < node.offset <= node.offset + node.nbytes <= len(data)
