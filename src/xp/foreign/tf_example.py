"""tf.train.Example from outside: lists of bytes, floats or whole numbers by name, parsed from protobuf's wire format.

Of the lists that are wanted the places of their values are found; numbers are decoded when they are asked for. So a
picture is neither copied nor decoded, and memory is at most 100 times the message (an empty value of bytes takes two
bytes there and a place here; a whole number one byte there and some arrays of eight here).

The messages (tensorflow/core/example/feature.proto): Example {1: Features {1: map of {1: name, 2: Feature}}}, Feature
{1: BytesList {1: bytes}} or {2: FloatList {1: float}} or {3: Int64List {1: int64}}.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from xp.array_types import Floats, Ints
from xp.foreign.paths import RefusedError
from xp.foreign.text import printable, shown

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""Wire types of protobuf; 3 and 4 are groups, which no tf.train.Example has."""
_LONGEST = 10
"""Bytes of a varint of 64 bits."""
_KINDS = {1: "bytes", 2: "floats", 3: "whole numbers"}
_AGAIN = "Copy the file again from where it came from."

Span = tuple[int, int]
"""Where a value begins in the message, and where it ends."""


class _BrokenError(ValueError):
    """What is wrong with the message."""


@dataclass(frozen=True)
class ExampleList:
    """A list of values of an Example; whoever reads it says which kind it expects."""

    data: bytes
    """The whole message."""
    where: str
    """What it is, for messages."""
    kind: str
    """`bytes`, `floats` or `whole numbers`; "" for a list without values that does not say."""
    parts: tuple[tuple[int, int, int], ...]
    """Of each field of the list: its wire type, where its content begins and where it ends."""

    def spans(self) -> list[Span]:
        """Where each value is, of a list of bytes."""
        self._expect("bytes", (_BYTES,))
        return [(begin, end) for _, begin, end in self.parts]

    def values(self) -> list[bytes]:
        """The values of a list of bytes."""
        return [self.data[begin:end] for begin, end in self.spans()]

    def floats(self) -> Floats:
        """[n] float32."""
        self._expect("floats", (_BYTES, _FOUR))
        if any((end - begin) % 4 for _, begin, end in self.parts):
            raise RefusedError(f"{self.where} is damaged: its floats are no multiple of 4 bytes. {_AGAIN}")
        return np.frombuffer(self._joined(), "<f4").astype(np.float32)

    def integers(self) -> Ints:
        """[n] int64."""
        self._expect("whole numbers", (_BYTES, _VARINT))
        try:
            return _varints(self._joined())
        except _BrokenError as error:
            raise RefusedError(f"{self.where} is damaged: {error}. {_AGAIN}") from error

    def _joined(self) -> bytes:
        return b"".join(self.data[begin:end] for _, begin, end in self.parts)

    def _expect(self, kind: str, wires: tuple[int, ...]) -> None:
        if self.kind not in (kind, ""):
            raise RefusedError(f"{self.where} holds {self.kind}: expected {kind}, by what describes the dataset.")
        if any(wire not in wires for wire, _, _ in self.parts):
            raise RefusedError(f"{self.where} is damaged: its values are not {kind}. {_AGAIN}")


def read_example(data: bytes, where: str, wanted: Collection[str]) -> dict[str, ExampleList]:
    """The lists of a serialised tf.train.Example by name.

    Args:
        data: the message.
        where: what it is, for messages: "record 3 of FILE".
        wanted: names of the lists; others are passed over.

    Raises:
        RefusedError: it is no such message, or cut short, or has a name twice.
    """
    found: dict[str, ExampleList] = {}
    try:
        for features in _contents(data, 0, len(data), 1):
            for entry in _contents(data, *features, 1):
                name = _name(data, *entry)
                if name in found:
                    raise _BrokenError(f"it has {shown(name)} twice")
                if name in wanted:
                    found[name] = _list(data, *entry, name, where)
    except _BrokenError as error:
        raise RefusedError(f"{where} is no tf.train.Example, or damaged: {error}. {_AGAIN}") from error
    return found


def _name(data: bytes, begin: int, end: int) -> str:
    """The name of an entry of the map."""
    found = ""
    for span in _contents(data, begin, end, 1):
        found = data[slice(*span)].decode("utf-8", "replace")
    return found


def _list(data: bytes, begin: int, end: int, name: str, where: str) -> ExampleList:
    """The list of an entry of the map."""
    kind, parts = "", list[tuple[int, int, int]]()
    for feature in _contents(data, begin, end, 2):
        for number, wire, *content in _fields(data, *feature):
            if number not in _KINDS or wire != _BYTES:
                continue
            if kind not in ("", _KINDS[number]):
                raise _BrokenError(f"{shown(name)} holds {kind} and {_KINDS[number]}")
            kind = _KINDS[number]
            parts += [(wire, first, last) for number, wire, first, last in _fields(data, *content) if number == 1]
    return ExampleList(data, f"{where}: {printable(name, 80)}", kind, tuple(parts))


def _contents(data: bytes, begin: int, end: int, wanted: int) -> Iterator[Span]:
    """Where the content of each field of a number is, in a message; one of another wire type is refused."""
    for number, wire, first, last in _fields(data, begin, end):
        if number == wanted:
            if wire != _BYTES:
                raise _BrokenError(f"byte {first:,} begins no message")
            yield first, last


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, begin and end of the content of each field of a message in `data[at:end]`."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        begin = at
        if wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire == _BYTES:
            size, begin = _varint(data, at, end)
            at = begin + size
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:
            raise _BrokenError(f"byte {begin:,} begins a field of wire type {wire}")
        if at > end:
            raise _BrokenError(f"the field that begins at byte {begin:,} is longer than what holds it")
        yield number, wire, begin, at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of at most 64 bits, and where the next byte is."""
    found = shift = 0
    while at < end and shift < 7 * _LONGEST:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
        shift += 7
    raise _BrokenError(f"the number at byte {at:,} does not end")


def _varints(data: bytes) -> Ints:
    """[n] int64: all numbers of packed varints."""
    given = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(given < 0x80) + 1
    if not len(given):
        return np.zeros(0, np.int64)
    if not len(ends) or ends[-1] != len(given):
        raise _BrokenError("its last number does not end")
    lengths = np.diff(ends, prepend=0)
    if lengths.max() > _LONGEST:
        raise _BrokenError(f"a number has more than {_LONGEST} bytes")
    found, starts = np.zeros(len(ends), np.uint64), ends - lengths
    for place in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > place)
        digits = (given[starts[longer] + place] & 0x7F).astype(np.uint64)
        found[longer] |= digits << np.uint64(7 * place)
    return found.view(np.int64)
