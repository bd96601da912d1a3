"""`model.pth`: what torch saves is read without torch, what is written torch reads, and nothing in it is run."""

import io
import pickle
import pickletools
import zipfile

import numpy as np
import pytest
import torch
from merging_made_up import leaves_of
from torch import Tensor

from xp.checkpoints.torch_archive import TorchArchiveWriter, open_torch_archive
from xp.errors import UserError
from xp.foreign.torch_archive import read_torch_archive

KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool)
SHAPES = ((), (3,), (2, 0, 4), (2, 3, 4))


def tensors() -> dict[str, Tensor]:
    """One of each kind and shape, and two parts of a larger one that share no element."""
    torch.manual_seed(0)
    made = {f"{kind}.{shape}": (8 * torch.randn(shape)).to(kind) for kind in KINDS for shape in SHAPES}
    rows = torch.randn(6, 5)
    return {**made, "first rows": rows[:2], "later rows": rows[3:]}


def module() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def loaded(folder) -> dict[str, np.ndarray]:
    """Bytes and shapes, since numpy alone knows no bfloat16."""
    found = torch.load(folder / "model.pth", weights_only=True)
    return {name: as_bytes(tensor) for name, tensor in found.items()}


def as_bytes(tensor: Tensor) -> tuple:
    return tuple(tensor.shape), str(tensor.dtype), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("content", [tensors(), module().state_dict(), dict(module().named_parameters())])
def test_what_torch_saves_is_read_and_what_is_written_torch_reads(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    arrays = open_torch_archive(tmp_path).load()
    assert list(arrays) == list(content)
    for name, tensor in content.items():
        own = arrays[name]
        assert (own.shape, f"torch.{own.dtype.name}") == (tuple(tensor.shape), str(tensor.dtype))
        assert own.tobytes() == as_bytes(tensor.detach())[2]
    (tmp_path / "again").mkdir()
    writer = TorchArchiveWriter(tmp_path / "again", leaves_of(arrays))
    for name, array in reversed(arrays.items()):
        flat = array.reshape(-1)
        half = len(flat) // 2
        for start, part in ((half, flat[half:]), (0, flat[:half])):
            writer.write(name, start, part)
    writer.close()
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["model.pth"]
    assert loaded(tmp_path / "again") == loaded(tmp_path)


class Trap:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (self.file, "w")


def saved(content) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def with_index(change) -> bytes:
    """An archive of one tensor whose index was changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(4)}))) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith("data.pkl") else data)
    return out.getvalue()


def packed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}.")
        archive.writestr("model/data/0", bytes(10**6))
    return out.getvalue()


SHARED = torch.ones(4)
HOSTILE = {
    "code": (lambda left: saved({"a": Trap(left)}), "asks for .*open, which could run anything"),
    "code in an old file": (lambda left: pickle.dumps(Trap(left)), "no archive of torch.save"),
    "memory": (lambda left: with_index(lambda old: b"\x80\x02r\xff\xff\xff\x7f."), "cannot be read"),
    "an endless index": (lambda left: with_index(lambda old: old[:-1]), "cannot be read"),
    "an instruction": (lambda left: with_index(lambda old: b"\x80\x04\x8f."), "the instruction EMPTY_SET"),
    "no index": (lambda left: with_index(lambda old: b""), "cannot be read"),
    "too large": (lambda left: with_index(lambda old: old.replace(b"K\x04\x85", b"M\x00\x10\x85")), "needs more bytes"),
    "a list": (lambda left: saved([torch.ones(2)]), "cannot be read"),
    "a number": (lambda left: saved({"a": 1}), "'a' is no dense tensor"),
    "a dict": (lambda left: saved({"a": {"b": torch.ones(2)}}), "'a' is no dense tensor"),
    "turned": (lambda left: saved({"a": torch.ones(3, 4).T}), "not contiguous"),
    "sparse": (lambda left: saved({"a": torch.ones(3, 4).to_sparse()}), "asks for torch"),
    "one twice": (lambda left: saved({"a": SHARED, "b": SHARED[1:]}), "share their data"),
    "packed": (lambda left: packed(), "is packed"),
    "cut": (lambda left: saved({"a": torch.ones(10**4)})[:20_000], "no archive"),
    "empty": (lambda left: b"", "no archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_state_dict_is_refused_and_nothing_is_run(name, tmp_path):
    make, said = HOSTILE[name]
    (tmp_path / "model.pth").write_bytes(make(str(tmp_path / "ran")))
    with pytest.raises(UserError, match=said):
        read_torch_archive(tmp_path / "model.pth", "weights")
    assert not (tmp_path / "ran").exists()


def test_no_instruction_is_known_that_looks_a_name_up():
    """Of all that a pickle can say, names are read (GLOBAL) and compared; no other way leads to code."""
    from xp.foreign.torch_archive import _Machine

    known = set(_Machine()._does)
    names = {each.name for each in pickletools.opcodes}
    assert known < names
    assert not known & {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID"}
