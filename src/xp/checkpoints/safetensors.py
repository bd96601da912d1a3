# pyright: strict
"""safetensors files, whole or sharded, read and written by their public layout.

8 bytes little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, then the data
(https://github.com/huggingface/safetensors); shards are listed in `model.safetensors.index.json`.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from xp.checkpoints.arrays import AnyArray, AnyDType, Array, CorruptFileError, Leaf
from xp.checkpoints.flat_file import Extent, FlatReader, FlatWriter
from xp.foreign.json_file import read_fields
from xp.foreign.paths import member, regular_file
from xp.foreign.safetensors_header import Tensor, read_safetensors_header
from xp.json_types import JSON

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_DTYPES: dict[str, AnyDType] = {word: np.dtype(kind) for word, kind in _TYPES.items()}
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}


WEIGHTS = "a checkpoint's weights"
"""What such a file is, for messages."""


def open_safetensors(
    files: tuple[Path, ...], listed: Mapping[str, str] | None = None, what: str = WEIGHTS
) -> FlatReader:
    """The tensors of one file or of all shards.

    Args:
        files: the files.
        listed: {tensor: name of its file} as an index has it, where there is one.
        what: what the files are, for messages.

    Raises:
        RefusedError: a file is missing, cut short or no safetensors file.
        CorruptFileError: two shards hold a tensor of one name, or files and index do not agree on what lies where.
    """
    extents: dict[str, Extent] = {}
    ties: dict[str, str] = {}
    for number, file in enumerate(files):
        header = read_safetensors_header(file, what)
        for name, tensor in header.tensors.items():
            if name in extents:
                raise CorruptFileError(f"{file.name} and {files[extents[name].file].name} both hold {name}")
            extents[name] = Extent(leaf_of(file, name, tensor), number, tensor.offset)
        found = header.tensors
        ties |= {name: kept for name, kept in header.metadata.items() if kept in found and name not in found}
    if listed is not None:
        _check_listed(listed, {name: files[extent.file].name for name, extent in extents.items()})
    return FlatReader(files, extents, {name: kept for name, kept in ties.items() if name not in extents})


def open_folder(folder: Path) -> FlatReader:
    """The tensors of `model.safetensors`, or of the shards that the index lists.

    Raises:
        RefusedError, CorruptFileError: as `open_safetensors`; also where both are there and differ.
    """
    listed = read_index(folder)
    if listed is None:
        return open_safetensors((member(folder, MODEL, WEIGHTS),))
    names = sorted(set(listed.values()))
    if (folder / MODEL).exists() and MODEL not in names:
        raise CorruptFileError(
            f"it holds {MODEL} and {INDEX}, which lists other files: one of the two is left over from before. "
            "Remove the one that does not belong there"
        )
    return open_safetensors(tuple(member(folder, name, f"a shard that {INDEX} lists") for name in names), listed)


def read_index(folder: Path) -> dict[str, str] | None:
    """{tensor: name of its file} of a folder's index; None without one.

    Raises:
        RefusedError: it is no index, or names a file that is not directly in the folder.
    """
    if not (folder / INDEX).exists():
        return None
    index = read_fields(member(folder, INDEX, "the index of the shards"), "the index of the shards")
    listed = index.object("weight_map")
    names = {name: listed.text(name, most=255) for name in listed.content}
    for name, file in names.items():
        if "/" in file or not file.endswith(".safetensors"):
            raise listed.refusal(name, "the name of a safetensors file in the same folder")
    if not names:
        raise index.refusal("weight_map", "tensors and their files")
    return names


def _check_listed(listed: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse an index and shards that differ: every tensor lies where the index says, and no other is there."""
    for name, file in listed.items():
        if found.get(name) != file:
            place = f"it is in {found[name]}" if name in found else "no shard holds it"
            raise CorruptFileError(f"{INDEX} says that {name} is in {file}, and {place}")
    others = sorted(found.keys() - listed.keys())
    if others:
        raise CorruptFileError(f"{found[others[0]]} holds {others[0]}, which {INDEX} does not list")


def leaf_of(file: Path, name: str, tensor: Tensor) -> Leaf:
    """The header of a tensor of a file.

    Raises:
        CorruptFileError: a type that numpy cannot compute with.
    """
    if tensor.word not in _DTYPES:
        raise CorruptFileError(f"{file.name}: {name} has the type {tensor.word}, which cannot be merged")
    return Leaf(name, tensor.shape, _DTYPES[tensor.word])


def word_of(dtype: AnyDType) -> str | None:
    """What a header calls a type of elements; None where it has no word."""
    return _WORDS.get(dtype)


def create_safetensors(
    folder: Path, leaves: Mapping[str, Leaf], *, ties: Mapping[str, str], shard_map: Mapping[str, str]
) -> FlatWriter:
    """Write headers and set sizes; the data is written through the answer.

    Args:
        folder: where to write.
        leaves: everything that will be written.
        ties: dropped names and the names they share data with, kept in the metadata as safetensors itself does.
        shard_map: {leaf name: file name}; a leaf that is not in it goes to model.safetensors. More than one file: an
            index is written too.
    """
    by_file: dict[str, list[Leaf]] = {}
    for leaf in leaves.values():
        by_file.setdefault(shard_map.get(leaf.name, MODEL), []).append(leaf)
    extents: dict[str, Extent] = {}
    files = tuple(folder / name for name in sorted(by_file))
    for number, file in enumerate(files):
        held = {leaf.name for leaf in by_file[file.name]}
        tied = {name: kept for name, kept in ties.items() if kept in held}
        extents |= _write_header(file, number, by_file[file.name], {"format": "pt", **tied})
    if [file.name for file in files] != [MODEL]:
        total = sum(leaf.nbytes for leaf in leaves.values())
        content = {
            "metadata": {"total_size": total},
            "weight_map": {name: files[extent.file].name for name, extent in sorted(extents.items())},
        }
        (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return FlatWriter(files, extents)


def _write_header(file: Path, number: int, leaves: list[Leaf], metadata: dict[str, str]) -> dict[str, Extent]:
    front = _front(leaves, metadata)
    extents: dict[str, Extent] = {}
    offset = len(front)
    for leaf in leaves:
        extents[leaf.name] = Extent(leaf, number, offset)
        offset += leaf.nbytes
    with file.open("xb") as handle:
        handle.write(front)
        handle.truncate(offset)
    return extents


def _front(leaves: Iterable[Leaf], metadata: Mapping[str, str] | None = None) -> bytes:
    """What stands before the data, which follows in the leaves' order."""
    header: dict[str, JSON] = {} if metadata is None else {"__metadata__": metadata}
    offset = 0
    for leaf in leaves:
        span = [offset, offset + leaf.nbytes]
        header[leaf.name] = {"dtype": _WORDS[leaf.dtype], "shape": list(leaf.shape), "data_offsets": span}
        offset += leaf.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@dataclass(frozen=True)
class Stored:
    """What was written: size in bytes and SHA-256 of the whole file."""

    bytes: int
    sha256: str


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> Stored:
    """Write arrays (numpy or on a device) as one file, one array in host memory at a time, in the order given.

    The caller makes it atomic.
    """
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in _pieces(arrays):
            file.write(piece)
            digest.update(piece)
            written += len(piece)
    return Stored(written, digest.hexdigest())


def _pieces(arrays: Mapping[str, Array]) -> Iterator[bytes | memoryview]:
    yield _front(Leaf(name, tuple(array.shape), np.dtype(array.dtype)) for name, array in arrays.items())
    for array in arrays.values():
        yield raw_bytes(np.ascontiguousarray(array))


def raw_bytes(array: AnyArray) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return memoryview(array.reshape(-1).view(np.uint8))


def read_arrays(path: Path, stored: Stored, what: str = WEIGHTS) -> dict[str, AnyArray]:
    """Read what `write_arrays` wrote, after checking size and SHA-256.

    Args:
        path: the file.
        stored: what `write_arrays` gave for it.
        what: what it is, for messages.

    Raises:
        CorruptFileError: the file is missing, has another size, another checksum, or cannot be parsed.
    """
    try:
        size = regular_file(path, what).stat().st_size
        if size != stored.bytes:
            raise CorruptFileError(f"{path.name} has {size:,} of {stored.bytes:,} bytes")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != stored.sha256:
                raise CorruptFileError(f"{path.name} does not have the checksum it was written with")
        return open_safetensors((path,), what=what).load()
    except CorruptFileError:
        raise
    except Exception as error:
        raise CorruptFileError(f"{path.name} cannot be read ({error})") from error
