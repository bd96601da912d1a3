"""numpy's npz files from outside: plain arrays alone, each of the size that its header says, in bounded memory."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from xp.foreign.bounds import allowance
from xp.foreign.paths import RefusedError, opened
from xp.foreign.text import printable

MOST_ARRAYS = 100_000
_AGAIN = "Copy the file again from where it came from, or write it again with numpy.savez."
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: str | Path, what: str) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, by name; nothing in it is unpickled.

    Args:
        path: the file.
        what: what it is, for the message: "an episode".

    Raises:
        MissingError: the file is not there.
        RefusedError: it is no npz file, damaged, would take more memory than its size explains, or holds something
            other than plain arrays (Python objects, structured types).
    """
    name = printable(path)
    with opened(path, what) as handle:
        size = handle.seek(0, 2)
        try:
            with zipfile.ZipFile(handle) as archive:
                entries = archive.infolist()
                unpacked = sum(entry.file_size for entry in entries)
                if unpacked > allowance(size) or len(entries) > MOST_ARRAYS:
                    raise RefusedError(
                        f"{name} ({size:,} bytes) unpacks to {unpacked:,} bytes in {len(entries):,} arrays: expected "
                        f"{what}, of at most {allowance(size):,} bytes. {_AGAIN}"
                    )
                return {_array_name(entry, name, what): _array(archive, entry, name, what) for entry in entries}
        except RefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - zipfile, zlib and numpy raise many kinds; all mean a damaged file
            raise RefusedError(
                f"{name} cannot be read as {what} ({type(error).__name__}: {printable(error)}). {_AGAIN}"
            ) from error


def _array_name(entry: zipfile.ZipInfo, name: str, what: str) -> str:
    if not entry.filename.endswith(".npy"):
        raise RefusedError(f"{name} holds '{printable(entry.filename)}': expected {what}, arrays alone. {_AGAIN}")
    return entry.filename.removesuffix(".npy")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, what: str) -> NDArray[Any]:
    """One array, its header checked against the bytes that are there before memory is taken for it."""
    with archive.open(entry) as stream:
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise RefusedError(f"{name}: {printable(entry.filename)} has npy version {version}. {_AGAIN}")
        shape, is_fortran, dtype = _HEADERS[version](stream)
        if dtype.kind not in "biuf":
            raise RefusedError(
                f"{name}: {printable(entry.filename)} holds {printable(dtype)}: expected numbers or truth values, in "
                f"{what}. {_AGAIN}"
            )
        there, wanted = entry.file_size - stream.tell(), math.prod(shape) * dtype.itemsize
        if there != wanted or any(length < 0 for length in shape):
            raise RefusedError(
                f"{name}: {printable(entry.filename)} has {there:,} bytes for the shape {shape} of {dtype}. {_AGAIN}"
            )
        flat = np.frombuffer(stream.read(), dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")
