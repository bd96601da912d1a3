"""TFRecord files from outside: records one after the other, each compared with its checksums.

A record is its length (8 bytes, little-endian), the masked CRC-32C of these, the data, and the masked CRC-32C of the
data (tensorflow/core/lib/io/record_writer.h). The length is believed only after its checksum fits and if the file has
so many bytes left, so a record costs no more memory than its file has bytes.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from xp.foreign.paths import RefusedError, opened
from xp.foreign.text import printable

_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")
_MASK, _WORD = 0xA282EAD8, 0xFFFFFFFF
_AGAIN = "Copy the file again from where it came from."


@dataclass(frozen=True)
class Record:
    """A record of a file."""

    number: int
    """0, 1, 2, ... in the file."""
    begin: int
    """Where its data begins in the file, in bytes."""
    data: bytes
    checksum: int
    """The masked CRC-32C of the data, as the file has it; it fits."""


def read_records(path: str | Path, what: str) -> Iterator[Record]:
    """All records of a TFRecord file, one at a time.

    Args:
        path: the file; not a compressed one.
        what: what it is, for the message: "episodes of the dataset".

    Raises:
        MissingError: the file is not there.
        RefusedError: it is no regular file, or a record is cut short or has another checksum.
    """
    with opened(path, what) as file:
        size, number = os.fstat(file.fileno()).st_size, 0
        while file.tell() < size:
            yield _read_one(file, size, number, f"{printable(path)}: record {number}")
            number += 1


def _read_one(file: BinaryIO, size: int, number: int, where: str) -> Record:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise _cut_short(where, _HEAD.size, len(head))
    length, checksum = _HEAD.unpack(head)
    if checksum != _masked(head[:8]):
        kind = "a gzip file" if head.startswith(b"\x1f\x8b") else "damaged, or no TFRecord file"
        raise RefusedError(f"{where} has a length whose checksum does not fit: {kind}. {_AGAIN}")
    begin = file.tell()
    if length + _TAIL.size > size - begin:
        raise _cut_short(where, length + _TAIL.size, size - begin)
    data, tail = file.read(length), file.read(_TAIL.size)
    if len(data) + len(tail) < length + _TAIL.size:  # the file became shorter meanwhile
        raise _cut_short(where, length + _TAIL.size, len(data) + len(tail))
    checksum = _TAIL.unpack(tail)[0]
    if checksum != _masked(data):
        raise RefusedError(f"{where} ({length:,} bytes) is damaged: its checksum does not fit. {_AGAIN}")
    return Record(number, begin, data, checksum)


def _cut_short(where: str, wanted: int, there: int) -> RefusedError:
    return RefusedError(f"{where} is cut short: {wanted:,} bytes should follow and {there:,} do. {_AGAIN}")


def _masked(data: bytes) -> int:
    """The CRC-32C, turned and with a constant added, so that checksums of what holds checksums are no special ones."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & _WORD
