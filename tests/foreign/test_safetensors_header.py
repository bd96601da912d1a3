"""Headers of safetensors files: what the format's own library refuses is refused, and nothing is read outside."""

import json
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save

from xp.foreign.paths import RefusedError
from xp.foreign.safetensors_header import Tensor, read_safetensors_header

WEIGHTS = "the policy's weights"


def _packed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _tensor(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_header_says_where_each_tensor_lies(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"b": np.ones((2, 3), np.float32), "a": np.zeros((), np.int64)}, {"note": "x"}))
    header = read_safetensors_header(path, WEIGHTS)
    assert header.metadata == {"note": "x"}
    assert {name: (t.word, t.shape, t.nbytes) for name, t in header.tensors.items()} == {
        "a": ("I64", (), 8),
        "b": ("F32", (2, 3), 24),
    }
    data = path.read_bytes()
    found: Tensor = header.tensors["b"]
    assert data[found.offset : found.offset + 24] == np.ones(6, np.float32).tobytes()


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "cut short or is not a safetensors"),
        (struct.pack("<Q", 2**63), "cut short or is not a safetensors"),
        (struct.pack("<Q", 10**9) + b"{}", "cut short or is not a safetensors"),
        (_packed(b"[]"), "has no header"),
        (_packed(b" {}"), "has no header"),
        (_packed(b'{"a": 1'), "is not the JSON"),
        (_packed({"a": 1}), "a is 1: expected an object"),
        (_packed({"a": {}}), "a.dtype is missing"),
        (_packed({"a": _tensor([1], [0, 4], 3)}, b"0000"), "a.dtype is 3: expected one of F64"),
        (_packed({"a": _tensor([1], [0, 4], "F4")}, b"0000"), "a.dtype is 'F4'"),
        (_packed({"a": _tensor([-1], [0, 4])}, b"0000"), r"a.shape is \[-1\]"),
        (_packed({"a": _tensor([1.0], [0, 4])}, b"0000"), r"a.shape is \[1.0\]"),
        (_packed({"a": _tensor([True], [0, 4])}, b"0000"), r"a.shape is \[True\]"),
        (_packed({"a": _tensor([2**40, 2**40], [0, 4])}, b"0000"), "a.shape is"),
        (_packed({"a": _tensor([0, 2**62, 4], [0, 0])}), "a.shape is"),
        (_packed({"a": _tensor([0, 2**62], [0, 0])}), "a.shape is"),
        (_packed({"a": _tensor([1], [-4, 0])}, b"0000"), "a.data_offsets is"),
        (_packed({"a": _tensor([1], [4, 0])}, b"0000"), "a.data_offsets is"),
        (_packed({"a": _tensor([1], [0, 4, 8])}, b"0000"), "exactly 2 whole numbers"),
        (_packed({"a": _tensor([1], [0, 8])}, b"00000000"), "two numbers 4 apart"),
        (_packed({"a": _tensor([1], [0, 4])}), "the file ends 4 bytes too early"),
        (_packed({"a": _tensor([1], [0, 4])}, b"00000000"), "has 4 bytes more than that"),
        (_packed({"a": _tensor([1], [4, 8])}, b"00000000"), "leaves a gap"),
        (_packed({"a": _tensor([2], [0, 8]), "b": _tensor([1], [4, 8])}, b"00000000"), "overlaps"),
        (_packed(b'{"a":%s,"a":%s}' % ((json.dumps(_tensor([1], [0, 4])).encode(),) * 2), b"0000"), "'a' twice"),
        (_packed({"__metadata__": {"a": 1}}), "__metadata__.a is 1: expected a text"),
        (_packed({"__metadata__": []}), "expected an object"),
        (_packed(b'{"a":' * 30 + b"1" + b"}" * 30), "nested deeper than 4"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_refused_by_file_tensor_and_field(tmp_path, content, found):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=found) as caught:
        read_safetensors_header(path, WEIGHTS)
    assert "model.safetensors" in str(caught.value) and str(caught.value).isprintable()


sizes = st.integers(-2, 5) | st.sampled_from([2**31, 2**62, 2**64, -(2**63)])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BF16", "I64", "f32", "F4"]),
        "shape": st.lists(sizes, max_size=3),
        "data_offsets": st.lists(sizes, min_size=2, max_size=2) | st.sampled_from([[0, 4], [4, 8], [0, 0]]),
    }
)
headers = st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), entries | st.dictionaries(st.text(), st.text()))


@settings(max_examples=400)
@example({"a": _tensor([0, 2**62], [0, 0])}, 0)
@given(headers, st.integers(0, 12))
def test_what_the_library_refuses_is_refused_and_what_it_reads_is_read_alike(tmp_path_factory, header, length):
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(_packed(header, bytes(range(length))))
    _compare(path)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_change_of_a_valid_file_is_read_as_the_library_reads_it_or_refused(tmp_path_factory, changes):
    data = bytearray(save({"b": np.ones((2, 3), np.float32), "a": np.arange(3, dtype=np.int64)}))
    for at, byte in changes:
        data[at % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(data)
    _compare(path)


def _compare(path):
    try:
        theirs = load(path.read_bytes())
    except (SafetensorError, KeyError, TypeError, ValueError):
        theirs = None
    try:
        found = read_safetensors_header(path, WEIGHTS)
    except RefusedError as error:
        assert str(error).isprintable()
        return
    data = path.read_bytes()
    for tensor in found.tensors.values():
        assert 8 <= tensor.offset <= tensor.offset + tensor.nbytes <= len(data)
    if theirs is not None:  # else: a type that numpy's loader does not know
        assert {name: t.shape for name, t in found.tensors.items()} == {name: a.shape for name, a in theirs.items()}
        for name, tensor in found.tensors.items():
            assert data[tensor.offset : tensor.offset + tensor.nbytes] == theirs[name].tobytes()
    else:
        assert any(t.word in ("BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "C64") for t in found.tensors.values())
