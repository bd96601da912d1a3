"""tf.train.Example from protobuf's wire format: what protobuf writes is read, and whatever else comes is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.foreign.paths import RefusedError
from xp.foreign.tf_example import read_example


def varint(number):
    number &= 2**64 - 1
    found = b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(lists):
    """{name: (number of the kind, content of the list)}"""
    entries = (
        field(1, field(1, name.encode()) + field(2, field(kind, content))) for name, (kind, content) in lists.items()
    )
    return field(1, b"".join(entries))


FLOATS = st.lists(st.floats(width=32, allow_nan=False))
WHOLE = st.lists(st.integers(-(2**63), 2**63 - 1))
BYTES = st.lists(st.binary(max_size=200))


@given(floats=FLOATS, whole=WHOLE, texts=BYTES, packed=st.booleans())
def test_lists_are_read_packed_or_not(floats, whole, texts, packed):
    if packed:
        of_floats, of_whole = (
            field(1, struct.pack(f"<{len(floats)}f", *floats)),
            field(1, b"".join(map(varint, whole))),
        )
    else:
        of_floats = b"".join(varint(1 << 3 | 5) + struct.pack("<f", each) for each in floats)
        of_whole = b"".join(varint(1 << 3) + varint(each) for each in whole)
    data = example({"a/f": (2, of_floats), "w": (3, of_whole), "t": (1, b"".join(field(1, each) for each in texts)),
                    "other": (2, b"\xff")})  # fmt: skip
    found = read_example(data, "it", {"a/f", "w", "t", "none"})
    assert set(found) == {"a/f", "w", "t"}, "what is not wanted is not looked into"
    np.testing.assert_array_equal(found["a/f"].floats(), np.float32(floats))
    assert found["w"].integers().tolist() == whole and found["t"].values() == texts


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    for given_data in (data, example({"a": (1, data)}), example({"a": (2, data)}), example({"a": (3, data)})):
        try:
            found = read_example(given_data, "it", {"a"})
            for read in ("floats", "integers", "values"):
                getattr(found["a"], read)()
        except (RefusedError, KeyError):
            pass


def test_a_list_of_another_kind_is_refused():
    found = read_example(example({"a": (2, field(1, b"\0" * 8))}), "record 3", {"a"})["a"]
    assert found.floats().tolist() == [0, 0]
    with pytest.raises(RefusedError, match="record 3: a holds floats: expected bytes"):
        found.values()
