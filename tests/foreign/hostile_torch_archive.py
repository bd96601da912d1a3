"""Archives of torch.save from a stranger, as weights to be merged."""

import io
import zipfile
from pathlib import Path

import numpy as np
from hostile_folders import BASES, DEEP, _many, link, pipe, put

from xp.checkpoints.arrays import Leaf
from xp.checkpoints.torch_archive import TorchArchiveWriter

WEIGHTS = "model.pth"


def archive(root: Path) -> None:
    root.mkdir()
    leaf = Leaf("a", (2, 3), np.dtype(np.float32))
    writer = TorchArchiveWriter(root, {"a": leaf})
    writer.write("a", 0, np.ones(6, np.float32))
    writer.close()
    (root / "config.json").write_text("{}")
    (root / "metadata.json").write_text('{"walk": {}}')


BASES["archive"] = archive


def holding(index: bytes, *, method: int = zipfile.ZIP_STORED, data: bytes = bytes(24)) -> bytes:
    """An archive with that index and one entry of data."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("model/data.pkl", index)
        file.writestr("model/data/0", data)
    return out.getvalue()


def tensor(shape: bytes, name: bytes = b"a") -> bytes:
    """The index of one tensor whose shape and strides are the outcome of `shape`."""
    text = b"X" + len(name).to_bytes(4, "little") + name
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"
    return b"\x80\x02}(" + text + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + shape * 2 + b"tRu."


def changed(index: bytes, **options: object):
    return put(WEIGHTS, holding(index, **options))  # pyright: ignore[reportArgumentType]


_many(
    "torch_archive",
    "archive",
    "merge",
    {
        "pipe": (pipe(WEIGHTS), "pipe"),
        "link_out": (link(WEIGHTS, "../secret.safetensors"), "leads out"),
        "pickle": (put(WEIGHTS, b"\x80\x02cposix\nsystem\n(X\x0c\0\0\0touch canarytR."), "no archive"),
        "code": (changed(b"\x80\x02cposix\nsystem\n(X\x0c\0\0\0touch canarytR."), "posix.system, which could run"),
        "code_as_an_object": (changed(b"\x80\x02cposix\nsystem\n)\x81."), "the instruction NEWOBJ"),
        "code_in_the_old_way": (changed(b"(X\x0c\0\0\0touch canaryiposix\nsystem\n."), "the instruction INST"),
        "long_text": (changed(b"\x80\x02X\xff\xff\xff\x7fa."), "cannot be read"),
        "deep": (changed(b"\x80\x02" + b"}" * 100_000 + b"a" * 100_000), "cannot be read"),
        "packed": (changed(tensor(b"K\x02K\x03\x86"), method=zipfile.ZIP_DEFLATED, data=bytes(10**7)), "is packed"),
        "absurd_shape": (changed(tensor((b"\x8a\x06" + b"\xff" * 5 + b"\x7f") * 2 + b"\x86")), "of the shape"),
        "negative_shape": (changed(tensor(b"J\xff\xff\xff\xffK\x03\x86")), "of the shape"),
        "too_large": (changed(tensor(b"M\xff\xff\x85")), "cannot be read"),
        "escape_in_a_name": (changed(tensor(b"K\x02K\x03\x86", b"\x1b[2J")), "cannot be read"),
        "other_tasks_deep": (put("metadata.json", DEEP), "nested|JSON"),
    },
)
