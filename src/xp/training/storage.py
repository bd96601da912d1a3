"""Named arrays on disk: the safetensors format, written as a stream, with a SHA-256 that is checked before reading."""

import contextlib
import errno
import hashlib
import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xp.errors import UserError
from xp.foreign.paths import regular_file
from xp.foreign.safetensors_header import read_safetensors_header

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Disk full, quota used up, file-size limit: for a user the same thing."""

_TYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64", "uint32": "U32", "bool": "BOOL"}


class CorruptFileError(Exception):  # noqa: N818 - a finding, handled where it is raised
    """A stored file is truncated, altered or unreadable."""


@dataclass(frozen=True)
class Stored:
    """What was written: size in bytes and SHA-256 of the whole file."""

    bytes: int
    sha256: str


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> Stored:
    """Write arrays (numpy or on a device) as a safetensors file, one array in host memory at a time.

    Format: 8 bytes little-endian header length, JSON header {name: {dtype, shape, data_offsets}}, raw little-endian
    data (safetensors, https://github.com/huggingface/safetensors). The caller makes it atomic.
    """
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in _pieces(arrays):
            file.write(piece)
            digest.update(piece)
            written += len(piece)
    return Stored(written, digest.hexdigest())


def read_arrays(path: Path, stored: Stored) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote, after checking size and SHA-256.

    Raises:
        CorruptFileError: the file is missing, has another size, another checksum, or cannot be parsed.
    """
    from safetensors.numpy import load_file

    try:
        size = regular_file(path, "the state of a training").stat().st_size
        if size != stored.bytes:
            raise CorruptFileError(f"{path.name} has {size:,} of {stored.bytes:,} bytes")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != stored.sha256:
                raise CorruptFileError(f"{path.name} does not have the checksum it was written with")
        read_safetensors_header(path, "the state of a training")
        return load_file(path)
    except CorruptFileError:
        raise
    except Exception as error:
        raise CorruptFileError(f"{path.name} cannot be read ({error})") from error


def digest_of(arrays: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and values, independent of order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def bytes_of(arrays: Mapping[str, Any]) -> int:
    """Bytes the arrays take."""
    return sum(int(array.nbytes) for array in arrays.values())


@contextlib.contextmanager
def room_for(target: Path, needed: int, keeps: str) -> Iterator[None]:
    """Turn a full disk while writing `target` into a message with the bytes needed and free.

    Args:
        target: the folder being written.
        needed: bytes it takes (an estimate). When the disk has less than that free, nothing is begun.
        keeps: what is safe, for the message, e.g. 'checkpoints/checkpoint-200 is complete'.

    Raises:
        UserError: the disk is full, a quota is used up or a file-size limit is reached.
    """
    free = shutil.disk_usage(target.parent).free
    try:
        if free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(target.parent).free
        raise UserError(
            f"The disk is full: {target.name} needs about {_human(needed)}, {_human(free)} are free in {target.parent} "
            f"({error.strerror}). Nothing half-written was left and {keeps}. Free some space, or lower "
            "trainer.keep_checkpoints, then give the same command again: the run goes on from there."
        ) from error


def _pieces(arrays: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    header, offset = {}, 0
    for name, array in arrays.items():
        end = offset + int(array.nbytes)
        header[name] = {"dtype": _TYPES[str(array.dtype)], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for array in arrays.values():
        yield _bytes(np.ascontiguousarray(array))


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _human(amount: int) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e8 else f"{amount / 1e6:.2f} MB"
