"""What a file of `torch.save` holds, where it is tensors by name: a zip archive whose index is a pickle.

The pickle is a program for a stack machine. It is not run: its instructions are followed here, and only those by which
torch writes a dict of tensors are known, so nothing is imported or called, and nothing is built but names, numbers and
the places of tensors. The data of each tensor are the bytes of one stored entry (github.com/pytorch/pytorch,
`torch/serialization.py`, `_save`).
"""

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xp.foreign.paths import RefusedError, opened
from xp.foreign.safetensors_header import ITEM_BYTES, LONGEST_HEADER, Tensor
from xp.foreign.text import printable

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
"""The type's word, as in a safetensors header, of each of torch's typed storages."""
INDEX, BYTE_ORDER = "data.pkl", "byteorder"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1
AGAIN = "Copy the file again from where it came from, or write its tensors as safetensors."


@dataclass(frozen=True)
class _Global:
    """A name that the pickle asks for; it is compared, never looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The data of an entry: its type's word and its key."""

    word: str
    key: str


@dataclass(frozen=True)
class _View:
    """A tensor as the pickle describes it: elements of a storage from `first` on."""

    storage: _Storage
    first: int
    shape: tuple[int, ...]


class _Unknown(Exception):  # noqa: N818 - becomes a refusal that names the file
    """An instruction, a name or a value that no dict of tensors has."""


def read_torch_archive(path: str | Path, what: str, again: str = AGAIN) -> dict[str, Tensor]:
    """{name: tensor} of a file that `torch.save` wrote of a state dict; the data are not read.

    Args:
        path: the file.
        what: what it is, for the message: "the policy's weights".
        again: what to do about one that is refused.

    Raises:
        MissingError: the file is not there.
        RefusedError: it is no archive, is packed or cut short; holds anything but dense tensors by name; a tensor's
            bytes are not all there, or two tensors share theirs.
    """
    name = printable(path)
    with opened(path, what) as handle:
        if not zipfile.is_zipfile(handle):
            raise RefusedError(
                f"{name} is no archive of torch.save ({what}). A file from before torch 1.6 is a pickle, which can run "
                f"code when it is opened: load it where it was made, and save it anew. {again}"
            )
        try:
            return _tensors(handle)
        except (_Unknown, ValueError, IndexError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
            raise RefusedError(
                f"{name} cannot be read as {what}: tensors by name, as torch.save writes a state dict "
                f"({printable(error, 200)}). Nothing else in a pickle is followed. {again}"
            ) from error


def _tensors(handle: BinaryIO) -> dict[str, Tensor]:
    size = handle.seek(0, 2)
    with zipfile.ZipFile(handle) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        front = next((name.removesuffix(INDEX) for name in entries if name.endswith(f"/{INDEX}")), None)
        if front is None:
            raise _Unknown(f"it has no {INDEX}")
        _refuse_packed(archive.infolist(), size)
        if entries[front + INDEX].file_size > LONGEST_HEADER:
            raise _Unknown(f"its {INDEX} has more than {LONGEST_HEADER:,} bytes")
        order = archive.read(front + BYTE_ORDER) if front + BYTE_ORDER in entries else b"little"
        if order != b"little":
            raise _Unknown("its numbers are not in little-endian order")
        views = _described(archive.read(front + INDEX))
    found: dict[str, Tensor] = {}
    for name, view in views.items():
        entry = entries[f"{front}data/{view.storage.key}"]
        start, bytes_each = _data_of(handle, entry, size), ITEM_BYTES[view.storage.word]
        nbytes = math.prod(view.shape) * bytes_each
        if view.first * bytes_each + nbytes > entry.file_size:
            raise _Unknown(f"{name} needs more bytes than there are")
        found[name] = Tensor(view.storage.word, view.shape, start + view.first * bytes_each, nbytes)
    _refuse_shared(found)
    return found


def _refuse_packed(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse entries that are more than their bytes in a file of `size` bytes: torch packs nothing."""
    unpacked = sum(entry.file_size for entry in entries)
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        if not stored or entry.flag_bits & _ENCRYPTED or unpacked > size:
            raise _Unknown(
                f"{entry.filename} is packed and would take {entry.file_size:,} bytes, all entries {unpacked:,} of a "
                f"file of {size:,}; torch packs nothing"
            )


def _data_of(handle: BinaryIO, entry: zipfile.ZipInfo, size: int) -> int:
    """Where an entry's bytes begin in the file."""
    handle.seek(entry.header_offset)
    front = handle.read(_LOCAL_HEADER.size)
    if len(front) < _LOCAL_HEADER.size or front[:4] != b"PK\x03\x04":
        raise _Unknown(f"{entry.filename} is not where the archive says")
    _, name, extra = _LOCAL_HEADER.unpack(front)
    start = entry.header_offset + _LOCAL_HEADER.size + name + extra
    if start + entry.file_size > size:
        raise _Unknown(f"{entry.filename} is cut short")
    return start


def _refuse_shared(tensors: dict[str, Tensor]) -> None:
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.nbytes and tensor.offset < end:
            raise _Unknown(f"{before} and {name} share their data; save each with its own (tensor.clone())")
        end, before = max(end, tensor.offset + tensor.nbytes), name


def _described(program: bytes) -> dict[str, _View]:
    """What the pickle describes."""
    outcome = _Machine().follow(program)
    if not isinstance(outcome, dict):
        raise _Unknown(f"it holds a {type(outcome).__name__}")
    views: dict[str, _View] = {}
    for name, value in outcome.items():
        if not isinstance(name, str) or not isinstance(value, _View):
            raise _Unknown(f"'{name}' is no dense tensor")
        views[name] = value
    return views


class _Machine:
    """The stack, the marks and the memory of a pickle, and the few instructions that are known."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._kept: dict[object, object] = {}
        self._does: dict[str, Callable[[object], object]] = {
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"), self._push),
            "NEWTRUE": lambda _: self._push(True),
            "NEWFALSE": lambda _: self._push(False),
            "NONE": lambda _: self._push(None),
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_TUPLE": lambda _: self._push(()),
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "TUPLE": lambda _: self._push(tuple(self._since_mark())),
            "TUPLE1": lambda _: self._push(tuple(self._last(1))),
            "TUPLE2": lambda _: self._push(tuple(self._last(2))),
            "TUPLE3": lambda _: self._push(tuple(self._last(3))),
            "GLOBAL": lambda name: self._push(_Global(str(name))),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._keep),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda place: self._push(self._kept[place])),
            "BINPERSID": lambda _: self._push(_storage(self._last(1)[0])),
            "REDUCE": lambda _: self._push(_made(*self._last(2))),
            "SETITEM": lambda _: self._set(self._last(2)),
            "SETITEMS": lambda _: self._set(self._since_mark()),
            "BUILD": lambda _: self._last(1),  # `_metadata` of a module's state dict: versions of its parts
        }

    def follow(self, program: bytes) -> object:
        """The one value that the program leaves."""
        for instruction, given, _ in pickletools.genops(program):
            if instruction.name == "STOP":
                (outcome,) = self._last(1)
                return outcome
            if instruction.name == "EMPTY_LIST":
                raise _Unknown("it holds a list")
            if instruction.name not in self._does:
                raise _Unknown(f"the instruction {instruction.name}")
            self._does[instruction.name](given)
        raise _Unknown("its index does not end")

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _keep(self, place: object) -> None:
        self._kept[place] = self._stack[-1]

    def _last(self, count: int) -> list[object]:
        if len(self._stack) < count:
            raise _Unknown("an instruction without its values")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _since_mark(self) -> list[object]:
        taken = self._stack[(first := self._marks.pop()) :]
        del self._stack[first:]
        return taken

    def _set(self, pairs: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2 or not all(isinstance(key, str) for key in pairs[::2]):
            raise _Unknown("something is put into what is no dict by name")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))


def _storage(described: object) -> _Storage:
    """The storage that a persistent id stands for: ("storage", its type, its key, where it lay, its elements)."""
    match described:
        case ("storage", _Global(name=name), str(key), str(), int()) if name.removeprefix("torch ") in STORAGES:
            return _Storage(STORAGES[name.removeprefix("torch ")], key)
        case _:
            raise _Unknown("data of a kind that is not known")


def _made(function: object, given: object) -> object:
    """What the three functions give that a state dict is made with."""
    match function, given:
        case _Global(name="collections OrderedDict"), ():
            return {}
        case _Global(name="torch._utils _rebuild_tensor_v2"), (_Storage() as storage, int(first), shape, strides, *_):
            return _View(storage, first, _contiguous(first, shape, strides))
        case _Global(name="torch._utils _rebuild_parameter"), (_View() as view, *_):
            return view
        case _Global(name=name), _:
            raise _Unknown(f"it asks for {name.replace(' ', '.')}, which could run anything")
        case _:
            raise _Unknown("something is called that is no function")


def _contiguous(first: int, shape: object, strides: object) -> tuple[int, ...]:
    """The shape of a tensor whose elements lie one behind the other."""
    match shape, strides:
        case tuple(), tuple() if len(shape) == len(strides):
            sizes = tuple(size for size in shape if isinstance(size, int) and 0 <= size < 1 << 48)
        case _:
            raise _Unknown("a tensor without a shape")
    if first < 0 or len(sizes) != len(shape) or math.prod(size for size in sizes if size) >= 1 << 60:
        raise _Unknown(f"a tensor of the shape {shape}")
    step = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size > 1 and stride != step and 0 not in sizes:
            raise _Unknown("a tensor that is not contiguous (save tensor.contiguous())")
        step *= size
    return sizes
