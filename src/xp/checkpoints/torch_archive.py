# pyright: strict
"""`model.pth` as `torch.save` writes a state dict: a zip archive of plain bytes, read and written without torch.

Its index is a pickle, of which only what a dict of tensors needs is followed (`xp.foreign.torch_archive`).
"""

import pickle
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path

import numpy as np

from xp.checkpoints.arrays import AnyArray, CorruptFileError, Leaf
from xp.checkpoints.flat_file import PIECE, Extent, FlatReader, FlatWriter
from xp.checkpoints.safetensors import WEIGHTS, leaf_of, word_of
from xp.foreign.paths import RefusedError, member
from xp.foreign.text import printable
from xp.foreign.torch_archive import BYTE_ORDER, INDEX, STORAGES, read_torch_archive

MODEL = "model.pth"
FRONT = "model/"
"""The folder within the archive that all entries lie in: by torch's habit the file's own name."""
_STORAGE_OF = {word: name for name, word in STORAGES.items()}
_LARGE = 1 << 31


def open_torch_archive(folder: Path) -> FlatReader:
    """The tensors of `model.pth`.

    Raises:
        RefusedError: the file holds anything but dense tensors by name, or is cut short.
    """
    file = member(folder, MODEL, WEIGHTS)
    tensors = read_torch_archive(file, WEIGHTS)
    return FlatReader(
        (file,), {name: Extent(leaf_of(file, name, each), 0, each.offset) for name, each in tensors.items()}
    )


def load_floats(file: Path, what: str, again: str) -> dict[str, AnyArray]:
    """The tensors of a file of `torch.save` in their shapes and types; their memory is that of the file, once.

    Args:
        file: the file; see `xp.foreign.paths.member`.
        what: what it is, for the message.
        again: what to do about one that is refused.

    Raises:
        RefusedError: as `read_torch_archive`; a tensor of anything but floats.
    """
    tensors = read_torch_archive(file, what, again)
    leaves = {name: leaf_of(file, name, each) for name, each in tensors.items()}
    for name, leaf in leaves.items():
        if not leaf.is_float:
            raise RefusedError(f"{printable(file)}: '{printable(name, 80)}' is no dense tensor of floats. {again}")
    try:
        return FlatReader(
            (file,), {name: Extent(leaf, 0, tensors[name].offset) for name, leaf in leaves.items()}
        ).load()
    except CorruptFileError as error:  # it was changed since its index was read
        raise RefusedError(f"{printable(file)} is not {what}: {error}. {again}") from error


class TorchArchiveWriter:
    """Writes ranges into a plain file, and packs that into `model.pth` when it is closed."""

    def __init__(self, folder: Path, leaves: Mapping[str, Leaf]) -> None:
        """The folder is empty; `leaves` is everything that will be written.

        Raises:
            CorruptFileError: torch has no typed storage for a leaf's elements.
        """
        self._target, self._plain = folder / MODEL, folder / f".{MODEL}.plain"
        self._leaves = list(leaves.values())
        self._index = _index(self._leaves)
        ends = np.cumsum([0, *(leaf.nbytes for leaf in self._leaves)]).tolist()
        with self._plain.open("xb") as handle:
            handle.truncate(ends[-1])
        extents = {leaf.name: Extent(leaf, 0, start) for leaf, start in zip(self._leaves, ends)}
        self._writer = FlatWriter((self._plain,), extents)

    def write(self, name: str, start: int, data: AnyArray) -> None:
        """See `Writer.write`."""
        self._writer.write(name, start, data)

    def close(self) -> None:
        """Pack, and remove the plain file."""
        self._writer.close()
        with (
            self._plain.open("rb") as data,
            zipfile.ZipFile(self._target, "x", zipfile.ZIP_STORED, strict_timestamps=False) as archive,
        ):
            archive.writestr(zipfile.ZipInfo(FRONT + INDEX), self._index)
            archive.writestr(zipfile.ZipInfo(FRONT + BYTE_ORDER), b"little")
            for number, leaf in enumerate(self._leaves):
                entry = zipfile.ZipInfo(f"{FRONT}data/{number}")
                with archive.open(entry, "w", force_zip64=leaf.nbytes >= _LARGE) as out:
                    for piece in _pieces(data, leaf.nbytes):
                        out.write(piece)
            archive.writestr(zipfile.ZipInfo(f"{FRONT}version"), b"3\n")
        self._plain.unlink()


def _pieces(source: BufferedReader, count: int) -> Iterator[bytes]:
    """The next `count` bytes."""
    while count:
        piece = source.read(min(count, PIECE))
        if not piece:
            raise CorruptFileError(f"the tensors of {MODEL} are not all there")
        count -= len(piece)
        yield piece


def _index(leaves: Iterable[Leaf]) -> bytes:
    """The pickle of {name: tensor}, as torch's own pickler writes it (protocol 2), without its memory."""
    return b"".join((pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.MARK, *_items(leaves), pickle.SETITEMS, b"."))


def _items(leaves: Iterable[Leaf]) -> Iterator[bytes]:
    for number, leaf in enumerate(leaves):
        word = word_of(leaf.dtype)
        if word not in _STORAGE_OF:
            raise CorruptFileError(f"{leaf.name} has the type {leaf.dtype.name}, for which {MODEL} has no name")
        yield _text(leaf.name) + _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK
        yield pickle.MARK + _text("storage") + _global("torch", _STORAGE_OF[word]) + _text(str(number)) + _text("cpu")
        yield _number(leaf.size) + pickle.TUPLE + pickle.BINPERSID + _number(0)
        yield _numbers(leaf.shape) + _numbers(_strides(leaf.shape)) + pickle.NEWFALSE
        yield _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE + pickle.REDUCE


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """In elements, of an array whose elements lie one behind the other."""
    steps = np.cumprod([1, *(max(size, 1) for size in shape[:0:-1])]).tolist()
    return tuple(reversed(steps)) if shape else ()


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _number(value: int) -> bytes:
    if value < _LARGE:
        return pickle.BININT + struct.pack("<i", value)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def _numbers(values: Iterable[int]) -> bytes:
    return pickle.MARK + b"".join(map(_number, values)) + pickle.TUPLE
