"""safetensors files, whole or sharded, read and written by their public layout.

8 bytes little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, then the data
(https://github.com/huggingface/safetensors); shards are listed in `model.safetensors.index.json`.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from xp.merging.formats.base import Damaged, Leaf
from xp.merging.formats.flat import Extent, FlatReader, FlatWriter

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_DTYPES = {word: np.dtype(kind) for word, kind in _TYPES.items()}
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}


def open_safetensors(files: tuple[Path, ...]) -> FlatReader:
    """The tensors of one file or of all shards.

    Raises:
        Damaged: a file is cut short or is no safetensors file, or two shards hold a tensor of one name.
    """
    extents: dict[str, Extent] = {}
    ties: dict[str, str] = {}
    for number, file in enumerate(files):
        entries, metadata, start = read_header(file)
        for name, entry in entries.items():
            if name in extents:
                raise Damaged(f"{file.name} and {files[extents[name].file].name} both hold {name}")
            extents[name] = Extent(_leaf(file, name, entry), number, start + entry["data_offsets"][0])
        ties |= {name: kept for name, kept in metadata.items() if kept in entries and name not in entries}
    return FlatReader(files, extents, {name: kept for name, kept in ties.items() if name not in extents})


def shards(folder: Path) -> tuple[Path, ...]:
    """The weight files of a folder: `model.safetensors`, or what the index lists, in the index's order.

    Raises:
        Damaged: the index is no index, leaves the folder, or lists a file that is missing.
    """
    if not (folder / INDEX).is_file():
        return (folder / MODEL,)
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{INDEX} is no index of shards ({error})") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise Damaged(f"{INDEX} lists {name}, which is not in the folder")
    return tuple(folder / name for name in names)


def read_header(file: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Entries by tensor name, the file's metadata, and where the data starts.

    Raises:
        Damaged: the file is cut short or is no safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        front = handle.read(8)
        length = struct.unpack("<Q", front)[0] if len(front) == 8 else 0
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise Damaged(f"{file.name} ({size:,} bytes) is cut short or is no safetensors file")
        try:
            header = json.loads(handle.read(length))
            metadata = header.pop("__metadata__", None) or {}
            entries = dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{file.name} has a header that cannot be read ({error})") from error
    return entries, metadata, 8 + length


def _leaf(file: Path, name: str, entry: Mapping[str, Any]) -> Leaf:
    if entry["dtype"] not in _DTYPES:
        raise Damaged(f"{file.name}: {name} has the type {entry['dtype']}, which cannot be merged")
    leaf = Leaf(name, tuple(entry["shape"]), _DTYPES[entry["dtype"]])
    start, stop = entry["data_offsets"]
    if stop - start != leaf.nbytes:
        raise Damaged(f"{file.name}: {name} {leaf.shape} has {stop - start:,} bytes instead of {leaf.nbytes:,}")
    return leaf


def create_safetensors(
    folder: Path, leaves: Mapping[str, Leaf], *, ties: Mapping[str, str], division: Mapping[str, str]
) -> FlatWriter:
    """Write headers and set sizes; the data is written through the answer.

    Args:
        folder: where to write.
        leaves: everything that will be written.
        ties: dropped names and the names they share data with, kept in the metadata as safetensors itself does.
        division: {leaf name: file name}; a leaf that is not in it goes to model.safetensors. More than one file: an
            index is written too.
    """
    by_file: dict[str, list[Leaf]] = {}
    for leaf in leaves.values():
        by_file.setdefault(division.get(leaf.name, MODEL), []).append(leaf)
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
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for leaf in leaves:
        span = [offset, offset + leaf.nbytes]
        header[leaf.name] = {"dtype": _WORDS[leaf.dtype], "shape": list(leaf.shape), "data_offsets": span}
        offset += leaf.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("xb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        handle.truncate(8 + len(text) + offset)
    start = 8 + len(text)
    return {leaf.name: Extent(leaf, number, start + header[leaf.name]["data_offsets"][0]) for leaf in leaves}
