"""PNG and JPEG pictures from outside: the header says their size, which is compared before anything is decoded.

Only these two formats are decoded, whatever a file calls itself: others of PIL's start programs (EPS) or are rarely
looked at. PIL is imported when a picture is decoded.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xp.foreign.paths import RefusedError, opened

if TYPE_CHECKING:
    from PIL import Image

MOST_BYTES = 256_000_000
"""Bytes of a picture's file that are read."""
_MOST_SCANS = 200
"""A progressive JPEG decodes the whole picture once for each scan; cameras and PIL write about ten."""
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_SOF = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_ALONE = {0x01, *range(0xD0, 0xD8)}


@dataclass(frozen=True)
class Header:
    """What a picture says of itself: size in pixels, bits of a channel, number of channels (a palette counts as 3)."""

    kind: str
    height: int
    width: int
    bits: int
    channels: int


def read_header(data: bytes, where: str) -> Header:
    """The header of a PNG or JPEG, parsed without decoding (PNG: ISO/IEC 15948, IHDR; JPEG: ITU-T T.81, SOF).

    Args:
        data: the whole file.
        where: which picture, for the message: "frame 12 of camera 'top' in FILE".

    Raises:
        RefusedError: neither of the two, cut short, or of no size.
    """
    if data.startswith(_PNG):
        header = _png(data)
    elif data.startswith(b"\xff\xd8"):
        header = _jpeg(data)
    else:
        raise RefusedError(
            f"{where} is not a picture: expected a PNG or a JPEG, and it begins with {data[:8]!r}. {_AGAIN}"
        )
    if header is None or header.height < 1 or header.width < 1:
        raise RefusedError(f"{where} is cut short or damaged: its header gives no size. {_AGAIN}")
    return header


def decode(source: bytes | Path, where: str, size: tuple[int, int]) -> "Image.Image":
    """A decoded picture of exactly `size`, as PIL has it (its mode is the file's).

    Memory: what `size` takes, whatever the file announces.

    Args:
        source: the file's bytes, or the file.
        where: which picture, for the message.
        size: the height and width that are expected.

    Raises:
        MissingError, RefusedError: the file is not there or no file; it is no PNG or JPEG, of another size, damaged, or
            made so that decoding takes long.
    """
    data = source if isinstance(source, bytes) else bytes_of(source, where)
    header = read_header(data, where)
    if (header.height, header.width) != tuple(size):
        raise RefusedError(
            f"{where} has {header.height}x{header.width} pixels (height x width): expected {size[0]}x{size[1]}. "
            "Correct the shape that the dataset announces, or record again."
        )
    if header.kind == "JPEG" and data.count(b"\xff\xda") > _MOST_SCANS:
        raise RefusedError(f"{where} has more than {_MOST_SCANS} scans: expected an ordinary JPEG. {_AGAIN}")
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=(header.kind,))
        if image.size != (header.width, header.height):
            raise ValueError(f"it announces two sizes, {header.width}x{header.height} and {image.size}")
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise RefusedError(f"{where} cannot be decoded ({error}). {_AGAIN}") from error
    return image


_AGAIN = "Copy the file again from where it came from, or record again."


def bytes_of(path: Path, where: str) -> bytes:
    """The bytes of a picture's file, at most `MOST_BYTES`; raises as `decode`."""
    with opened(path, where) as handle:
        data = handle.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise RefusedError(f"{where} has more than {MOST_BYTES:,} bytes: expected a picture. {_AGAIN}")
    return data


def _png(data: bytes) -> Header | None:
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        return None
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    return Header("PNG", height, width, bits, _PNG_CHANNELS[colour]) if colour in _PNG_CHANNELS else None


def _jpeg(data: bytes) -> Header | None:
    """Walk over the segments to the frame header; each step moves on by at least two bytes."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        mark = data[at + 1]
        if mark == 0xFF or mark in _ALONE:
            at += 1 if mark == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if mark in _SOF and at + 10 <= len(data):
            bits, height, width, channels = struct.unpack(">BHHB", data[at + 4 : at + 10])
            return Header("JPEG", height, width, bits, channels)
        if mark in (0xD9, 0xDA) or length < 2:
            return None
        at += 2 + length
    return None
