"""What `features.json` says of a dataset in RLDS: the fields of a step, flat by their path. Imports nothing heavy.

TFDS writes the tree of its feature connectors there (tensorflow_datasets/core/proto/feature.proto, as JSON). The fields
of a step lie in `steps`, a dataset within the episode; `observation/image` is the path of one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xp.errors import UserError
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import member
from xp.foreign.text import printable

FILE = "features.json"
WHAT = "TFDS's description of the fields"
STEPS = "steps"
OBSERVATION = "observation/"
NUMBERS = {
    "float16": "<f2", "float32": "<f4", "float64": "<f8", "bool": "|b1", "uint8": "|u1", "int8": "|i1",
    "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4", "int64": "<i8", "uint64": "<u8",
}  # fmt: skip
"""{type of a field: numpy's}."""
MOST_NUMBERS = 1 << 16
"""Numbers of one field of a step."""
_COLOURS = 3
_NAME = re.compile(r"[\w ./-]{1,200}")
_DEEPEST = 20


@dataclass(frozen=True)
class Field:
    """A field of a step."""

    path: str
    """Inside a step, the names parted by slashes."""
    kind: str
    """`numbers`, `picture` (of colours, 8 bits), `text`, or for what is not read the name of its class in TFDS."""
    shape: tuple[int | None, ...] = ()
    """Of numbers; of a picture height, width and 3, None where they are not told."""
    type: str = "float32"
    """A key of `NUMBERS`."""
    encoding: str = "none"
    """How numbers stand in a record: `none` (as numbers), `bytes` or `zlib`."""

    @property
    def width(self) -> int:
        """Numbers of a step."""
        found = 1
        for size in self.shape:
            found *= size or 0
        return found


def read_features(folder: Path) -> dict[str, Field]:
    """{path: field} of a step, in the order of the file.

    Raises:
        UserError: the file is missing, damaged, of an older TFDS, or describes no episodes with steps.
    """
    top = read_fields(member(folder, FILE, WHAT), WHAT)
    if "pythonClassName" not in top:
        raise UserError(
            f"{printable(folder / FILE)} has no `pythonClassName`, as that of TFDS before 4.5: expected a later one's. "
            f'Write it anew with TFDS: python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder_from_directory('{printable(folder)}').info.write_to_directory('{printable(folder)}')\""
        )
    episode = top.object("featuresDict", None)
    fields = None if episode is None else episode.object("features").object(STEPS, None)
    steps = None if fields is None else fields.object("sequence", None)
    if steps is None:
        raise UserError(
            f"{printable(folder / FILE)} describes no episodes: expected a field `{STEPS}`, a dataset in each "
            "example, as RLDS has it. Give a dataset of episodes: data.root=FOLDER"
        )
    return {field.path: field for field in _leaves(steps.object("feature"), "", 0)}


def _leaves(node: Fields, path: str, depth: int) -> Iterator[Field]:
    inner = node.object("featuresDict", None)
    if inner is None or depth > _DEEPEST:
        yield _field(node, path)
        return
    for name, each in inner.object("features", Fields({}, "")).objects():
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{inner.source} names a field {printable(repr(name), 80)}: expected at most 200 letters, digits, "
                "spaces and '_', '-', '.', '/'. Rename it, where the dataset is built."
            )
        yield from _leaves(each, f"{path}/{name}" if path else name, depth + 1)


def _field(node: Fields, path: str) -> Field:
    """A leaf; what is not read keeps the name of its class."""
    name = printable(node.text("pythonClassName", "unknown").rpartition(".")[2], 40)
    if "tensor" in node:
        return _tensor(node.object("tensor"), path, name)
    if "image" in node:
        return _image(node.object("image"), path, name)
    if "text" in node:
        return Field(path, "text")
    if "classLabel" in node:
        return Field(path, "numbers", (), "int64")
    return Field(path, name)


def _tensor(node: Fields, path: str, name: str) -> Field:
    shape, kind = _shape(node), node.text("dtype", "")
    encoding = node.text("encoding", "none", among=("none", "bytes", "zlib"))
    if kind == "string":
        return Field(path, "text") if not shape and encoding == "none" else Field(path, f"{name} of texts")
    if kind not in NUMBERS:
        return Field(path, f"{name} of {printable(kind, 40)}")
    if any(size is None for size in shape):
        return Field(path, f"{name} of varying size")
    found = Field(path, "numbers", shape, kind, encoding)
    return found if found.width <= MOST_NUMBERS else Field(path, f"{name} of {found.width:,} numbers")


def _image(node: Fields, path: str, name: str) -> Field:
    shape, kind = _shape(node), node.text("dtype", "uint8")
    colours = kind == "uint8" and (not shape or (len(shape) == 3 and shape[2] in (_COLOURS, None)))
    if not colours:
        size = "x".join("?" if each is None else str(each) for each in shape)
        return Field(path, f"{name} of {printable(kind, 40)}, {size}")
    return Field(path, "picture", (*(shape[:2] or (None, None)), _COLOURS))


def _shape(node: Fields) -> tuple[int | None, ...]:
    """The sizes of a shape; numbers of 64 bits are texts in JSON, and -1 stands for a size that is not told."""
    dimensions = node.object("shape", Fields({}, "")).content.get("dimensions")
    if dimensions is None:
        return ()
    sizes = [str(each) for each in dimensions] if isinstance(dimensions, list) else ["not a list"]
    if len(sizes) > 32 or not all(re.fullmatch(r"-1|\d{1,18}", size) for size in sizes):
        raise node.refusal("shape", 'an object with at most 32 "dimensions", whole numbers or -1')
    return tuple(None if size == "-1" else int(size) for size in sizes)
