"""Zarr arrays from outside (`.zarray`, format 2, as Orbax and tensorstore write them) and their folder.

A header is a few hundred bytes and may announce any number of elements. The rule: all arrays of a folder together take
at most `bounds.allowance` of the folder's own bytes.
"""

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xp.foreign.bounds import allowance
from xp.foreign.json_file import Fields, parsed
from xp.foreign.paths import RefusedError, inside
from xp.foreign.text import printable, shown

ITEM_BYTES = {
    "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "|b1": 1, "|i1": 1, "|u1": 1,
    **{f"{order}{kind}{size}": size for order in "<>" for kind in "fiu" for size in (2, 4, 8)},
}  # fmt: skip
"""Bytes of an element by the header's word for its type."""
COMPRESSORS = ("zstd", "blosc", "zlib", "gzip", "bz2")
"""Codecs that only decode."""
MOST_FILES = 1_000_000
_LONGEST = 1_000_000
_FIELDS = (
    "chunks",
    "compressor",
    "dimension_separator",
    "dtype",
    "fill_value",
    "filters",
    "order",
    "shape",
    "zarr_format",
)
_AGAIN = "Copy the checkpoint again from where it came from."


@dataclass(frozen=True)
class ArrayHeader:
    """What a `.zarray` says: `content` is the whole of it."""

    content: Mapping[str, Any]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    word: str

    @property
    def nbytes(self) -> int:
        """Bytes of the array, or of one chunk where that is more."""
        return max(math.prod(self.shape), math.prod(self.chunks)) * ITEM_BYTES[self.word]

    @property
    def chunk_count(self) -> int:
        """Chunks that hold the array."""
        return math.prod(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks))


def read_array_header(data: bytes, source: str) -> ArrayHeader:
    """The checked header of an array.

    Args:
        data: the text of `.zarray`.
        source: which array, for the message.

    Raises:
        RefusedError: no zarr of format 2, an unknown field, codec, filter, type or order, or a shape or chunks that are
            none.
    """
    if len(data) > _LONGEST:
        raise RefusedError(f"{source} has {len(data):,} bytes: expected at most {_LONGEST:,}. {_AGAIN}")
    content = parsed(data, source, "a zarr array's header", deepest=6)
    if not isinstance(content, dict):
        raise RefusedError(f"{source} holds {shown(content)}: expected an object, a zarr array's header. {_AGAIN}")
    fields = Fields(content, source)
    fields.refuse_others(_FIELDS)
    fields.integer("zarr_format", low=2, high=2)
    fields.text("order", among=("C", "F"))
    fields.text("dimension_separator", ".", among=(".", "/"))
    if content.get("filters"):
        raise fields.refusal("filters", "none")
    compressor = fields.object("compressor", None)
    if compressor is not None:
        compressor.text("id", among=COMPRESSORS)
    word, shape = fields.text("dtype", among=ITEM_BYTES), fields.shape("shape")
    chunks = fields.shape("chunks", low=1)
    if len(chunks) != len(shape):
        raise fields.refusal("chunks", f"{len(shape)} numbers, one for each axis")
    fill = content.get("fill_value")
    if fill is not None and (isinstance(fill, str) and len(fill) > 64 or not isinstance(fill, str | int | float)):
        raise fields.refusal("fill_value", "a number or null")
    return ArrayHeader(content, shape, chunks, word)


def check_sizes(arrays: Mapping[str, ArrayHeader], folder: Path, size: int) -> None:
    """Refuse arrays that the folder's size cannot explain.

    Args:
        arrays: all headers by name.
        folder: the folder, for the message.
        size: its bytes on disk, as `folder_bytes` counts them.

    Raises:
        RefusedError: together, they take more than `bounds.allowance(size)`; the largest is named.
    """
    total = sum(header.nbytes for header in arrays.values())
    if total > allowance(size):
        name = max(arrays, key=lambda name: arrays[name].nbytes)
        raise RefusedError(
            f"{printable(folder)} ({size:,} bytes) announces arrays of {total:,} bytes, {printable(name)} of shape "
            f"{shown(list(arrays[name].shape))} among them: expected at most {allowance(size):,} bytes for a folder of "
            f"this size. {_AGAIN}"
        )


def folder_bytes(folder: Path, what: str) -> int:
    """Bytes of all files below a folder, each of which must be a regular file inside it.

    Raises:
        RefusedError: a link that leads out of the folder or to a folder, a pipe, a device, or more than `MOST_FILES`.
    """
    total, count, waiting = 0, 0, [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            count += 1
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                waiting.append(Path(entry.path))
                continue
            inside(folder, os.path.relpath(entry.path, folder), what)
            try:
                found = entry.stat()
            except OSError as error:
                raise RefusedError(
                    f"{printable(entry.path)} is a link to nothing: expected a part of {what}."
                ) from error
            if not stat.S_ISREG(found.st_mode) or count > MOST_FILES:
                expected = f"at most {MOST_FILES:,} files" if count > MOST_FILES else "a regular file"
                raise RefusedError(f"{printable(entry.path)}: expected {expected} in {what}. {_AGAIN}")
            total += found.st_size
    return total
