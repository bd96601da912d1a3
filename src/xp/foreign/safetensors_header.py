"""The header of a safetensors file, checked against the file: every rule of the format's own library holds here.

8 bytes little-endian length, a JSON header {name: {dtype, shape, data_offsets}, __metadata__: {text: text}}, then the
data of all tensors, without a gap and without overlap to the end of the file (https://github.com/huggingface/safetensors,
`validate` in safetensors/src/tensor.rs).
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from xp.foreign.json_file import Fields, parsed
from xp.foreign.paths import RefusedError, opened
from xp.foreign.text import printable

LONGEST_HEADER = 25_000_000
"""Bytes; about 200,000 tensors."""
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of an element by the type's word."""
_METADATA = "__metadata__"
_AGAIN = "Copy the file again from where it came from."


@dataclass(frozen=True)
class Tensor:
    """One tensor: its type's word, its shape, and where its `nbytes` bytes begin in the file."""

    word: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a file holds, in the order of the data."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_safetensors_header(path: str | Path, what: str) -> Header:
    """The checked header of a safetensors file; the data is not read.

    Args:
        path: the file.
        what: what it is, for the message: "the policy's weights".

    Raises:
        MissingError: the file is not there.
        RefusedError: it is not a safetensors file, is cut short or has more bytes than its header explains; a tensor
            has an unknown type, a shape that is none, or bytes that overlap, leave a gap or do not fit its shape; or
            two have one name.
    """
    name = printable(path)
    with opened(path, what) as handle:
        size = handle.seek(0, 2)
        handle.seek(0)
        front = handle.read(8)
        length = struct.unpack("<Q", front)[0] if len(front) == 8 else 0
        if not 2 <= length <= size - 8:
            raise RefusedError(f"{name} ({size:,} bytes) is cut short or is not a safetensors file ({what}). {_AGAIN}")
        if length > LONGEST_HEADER:
            raise RefusedError(
                f"{name} has a header of {length:,} bytes: expected {what}, with at most {LONGEST_HEADER:,}. {_AGAIN}"
            )
        text = handle.read(length)
    if not text.startswith(b"{"):
        raise RefusedError(f"{name} ({size:,} bytes) is not a safetensors file ({what}): it has no header. {_AGAIN}")
    content = parsed(text, f"the header of {name}", what, deepest=4)
    assert isinstance(content, dict), "what begins with { and is JSON is an object"
    return _checked(Fields(content, f"the header of {name}"), start=8 + length, size=size)


def _checked(fields: Fields, start: int, size: int) -> Header:
    metadata: dict[str, str] = {}
    if _METADATA in fields:
        noted = fields.object(_METADATA)
        metadata = {key: noted.text(key, most=LONGEST_HEADER) for key in noted.content}
    tensors = {name: _tensor(fields.object(name), start) for name in fields.content if name != _METADATA}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    end = start
    for name, tensor in tensors.items():
        if tensor.offset != end:
            kind = "overlaps the tensor before it" if tensor.offset < end else "leaves a gap before it"
            raise fields.object(name).refusal("data_offsets", f"a start of {end - start:,}, since this {kind}")
        end += tensor.nbytes
    if end != size:
        found = f"ends {end - size:,} bytes too early" if end > size else f"has {size - end:,} bytes more than that"
        raise RefusedError(f"{fields.source} announces {end:,} bytes and the file {found}. {_AGAIN}")
    return Header(tensors, metadata)


def _tensor(entry: Fields, start: int) -> Tensor:
    word, shape = entry.text("dtype", among=ITEM_BYTES), entry.shape("shape")
    # numpy holds no array whose bytes would overflow with its empty axes left out
    if math.prod(size for size in shape if size) * ITEM_BYTES[word] >= 2**63:
        raise entry.refusal("shape", f"the shape of an array of {word} that can be addressed")
    first, last = entry.integers("data_offsets", count=2, low=0)
    nbytes = math.prod(shape) * ITEM_BYTES[word]
    if last - first != nbytes:
        raise entry.refusal("data_offsets", f"two numbers {nbytes:,} apart, the bytes of {word} {list(shape)}")
    return Tensor(word, shape, start + first, nbytes)
