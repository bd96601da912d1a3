"""Converts a pi0 between openpi's JAX folders, openpi's folders in torch and LeRobot's, layer by layer.

No number changes but by a cast that is asked for. Memory is a layer of the largest leaf, a few times; files are read
once, in order. A low-rank update beside a weight is folded into it.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np

from xp import atomic
from xp.checkpoints.arrays import AnyArray, AnyDType, CorruptFileError, Leaf, Writer
from xp.checkpoints.orbax import OrbaxWriter, write_step_metadata
from xp.checkpoints.ranges import cut, rounded_up
from xp.errors import UserError
from xp.foreign.paths import inside
from xp.foreign.text import printable
from xp.models.misfit import misfit
from xp.models.pi0.interface import Interface, saved_interface, whole_number
from xp.models.pi0.io import processor_files
from xp.models.pi0.io.folder import PARAMS, StepFolder, is_pi0, new_tree, open_step
from xp.models.pi0.io.key_map import UNUSED, Part, joined, leaf_shapes, parts, tensor_shapes
from xp.models.pi0.io.norm_stats import ASSETS
from xp.models.pi0.io.norm_stats import FILE as NORM_STATS
from xp.models.pi0.io.notes import TOKENIZER
from xp.models.pi0.io.torch_folder import (
    PREFIX,
    TorchFolder,
    create_torch,
    is_lerobot_pi0,
    is_openpi_torch,
    open_torch,
    write_beside,
)
from xp.models.pi0.network.sizes import Sizes, sizes_from_shapes, weight_shapes

JAX, TORCH, LEROBOT = "openpi_jax", "openpi_torch", "lerobot"
DTYPES: Mapping[str, AnyDType] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_PIECE = 16 << 20
"""Elements of a leaf without layers that are moved at once."""

type Advance = Callable[[int], None]
"""Told how many bytes were read."""


@dataclass(frozen=True)
class Source:
    """What is converted; its weights are not read."""

    opened: StepFolder | TorchFolder
    sizes: Sizes
    interface: Interface

    @property
    def format(self) -> str:
        """Its name among the formats."""
        if isinstance(self.opened, StepFolder):
            return JAX
        return LEROBOT if self.opened.is_lerobot else TORCH

    @property
    def nbytes(self) -> int:
        """Of all weights, as they are stored."""
        return sum(leaf.nbytes for leaf in self.opened.leaves.values())


def is_convertible(folder: Path) -> bool:
    """Whether a folder is a pi0 of one of the formats, by names alone."""
    return is_openpi_torch(folder) or is_lerobot_pi0(folder) or is_pi0(folder)


def open_source(folder: Path, step: int | None, options: Mapping[str, str]) -> Source:
    """Open a folder of any format; `options` are those of loading.

    Raises:
        UserError: weights that are not those of a pi0, each and no other; missing statistics; options that do not fit.
    """
    if is_openpi_torch(folder) or is_lerobot_pi0(folder):
        heads = whole_number("vision_heads", options["vision_heads"], 16) if "vision_heads" in options else None
        torch_folder = open_torch(folder, heads, fold=True)
        given = dict(options)
        if torch_folder.notes is None and "action_horizon" in torch_folder.config:
            horizon = torch_folder.config.integer("action_horizon", low=1, high=4096)
            given.setdefault("horizon", str(horizon))
        sizes = torch_folder.sizes
        return Source(torch_folder, sizes, _with_heads(saved_interface(torch_folder, sizes, {}, given), sizes))
    opened = open_step(folder, step, fold=True)
    where = str(opened.path)
    sizes = sizes_from_shapes(opened.shapes, where)
    check_leaves(opened.shapes, sizes, where)
    return Source(opened, sizes, _with_heads(saved_interface(opened, sizes, {}, options), sizes))


def _with_heads(interface: Interface, sizes: Sizes) -> Interface:
    """Note the heads of the image encoder, which tensors do not tell."""
    return replace(interface, notes=replace(interface.notes, vision_heads=sizes.vision.heads))


def check_leaves(shapes: Mapping[str, tuple[int, ...]], sizes: Sizes, where: str) -> None:
    """Refuse a tree that lacks a leaf, has one too many, or one whose shape the ports to torch cannot hold.

    Raises:
        UserError: says which.
    """
    said = misfit(shapes, weight_shapes(sizes))
    if not said:
        said = misfit(shapes, leaf_shapes(tensor_shapes(shapes), sizes.vision.heads, where))
    if said:
        raise UserError(
            f"The weights in {where} are not those of a {sizes.name}: the folder {said}. Give the params folder of a "
            "pi0 or pi0.5 as openpi saved it."
        )


def convert(
    source: Source, to: str, output: Path, *, dtype: str | None = None, advance: Advance = lambda _: None
) -> Path:
    """Write `source` in another format; the folder appears whole or not at all.

    Args:
        source: what `open_source` gave.
        to: `JAX`, `TORCH` or `LEROBOT`.
        output: a folder, which is replaced where it exists.
        dtype: of the weights written; None: as they are.
        advance: told of every piece that was read.

    Raises:
        UserError: a file is damaged.
    """
    cast = None if dtype is None else DTYPES[dtype]
    try:
        with atomic.folder(output) as target:
            target.mkdir(parents=True, exist_ok=True)
            if to == JAX:
                _to_jax(source, target, cast, advance)
            else:
                _to_torch(source, target, to, cast, advance)
    except CorruptFileError as error:
        raise UserError(
            f"The checkpoint {source.opened.path} is damaged: {printable(error)}. Nothing was written. Copy it again "
            "from where it came from."
        ) from error
    return output


def _to_torch(source: Source, target: Path, to: str, cast: AnyDType | None, advance: Advance) -> None:
    opened, interface = source.opened, source.interface
    prefix = PREFIX if to == LEROBOT else ""
    leaves = _tensor_leaves(source, cast)
    writer = create_torch(target, leaves, prefix)
    moves = _cut_up(opened, advance) if isinstance(opened, StepFolder) else _renamed(opened, advance)
    for name, start, values in moves:
        writer.write(prefix + name, start, values.astype(leaves[name].dtype, copy=False))
    writer.close()  # the unused matrix, where the source has none, stays the zeros that an unwritten range is
    notes, file = interface.notes, interface.tokenizer_file
    precision = "bfloat16" if any(leaf.dtype == DTYPES["bfloat16"] for leaf in leaves.values()) else "float32"
    if to == TORCH:
        write_beside(target, source.sizes, interface.statistics, notes, file, precision=precision)
        return
    processor_files.write(target, source.sizes, interface.statistics, notes, precision)
    interface.statistics.write(inside(target / ASSETS, f"{notes.asset_id}/{NORM_STATS}", "a policy's asset id"))
    notes.write(target)
    if file is not None:
        shutil.copyfile(file, target / TOKENIZER)


def _tensor_leaves(source: Source, cast: AnyDType | None) -> dict[str, Leaf]:
    """The tensors that are written, in the order of the parts."""
    opened = source.opened
    shapes = tensor_shapes(opened.shapes)
    if isinstance(opened, TorchFolder):
        kept = {name: leaf.dtype for name, leaf in opened.leaves.items()}
    else:
        kept = {name: opened.leaves[part.leaf].dtype for part in parts(opened.shapes) for name in part.tensors}
    kept.setdefault(UNUSED, kept["action_in_proj.weight"])
    return {name: Leaf(name, shape, cast or kept[name]) for name, shape in shapes.items()}


def _renamed(opened: TorchFolder, advance: Advance) -> Iterator[tuple[str, int, AnyArray]]:
    """Tensors as they are: (name, first element, values)."""
    for name, leaf in opened.leaves.items():
        for start, stop in cut(0, leaf.size, _PIECE):
            values = opened.reader.read(opened.files[name], start, stop)
            advance(values.nbytes)
            yield name, start, values


def _cut_up(opened: StepFolder, advance: Advance) -> Iterator[tuple[str, int, AnyArray]]:
    """Leaves as tensors: (name, first element, values)."""
    reader = opened.checkpoint.reader
    for part in parts(opened.shapes):
        leaf = opened.leaves[part.leaf]
        if part.layer is None and part.is_same:
            for start, stop in cut(0, leaf.size, rounded_up(_PIECE, reader.alignment(leaf.name))):
                values = reader.read(leaf.name, start, stop)
                advance(values.nbytes)
                yield part.tensors[0], start, values
            continue
        first, shape = part.place(leaf.shape)
        values = reader.read(leaf.name, first, first + int(np.prod(shape))).reshape(shape)
        advance(values.nbytes)
        for name, tensor in zip(part.tensors, part.way.split(values)):
            yield name, 0, np.ascontiguousarray(tensor).reshape(-1)


def _to_jax(source: Source, target: Path, cast: AnyDType | None, advance: Advance) -> None:
    opened, interface = source.opened, source.interface
    place = target / str(interface.step)
    shapes = opened.shapes
    leaves = {name: Leaf(name, shape, cast or _leaf_dtype(opened, name)) for name, shape in shapes.items()}
    writer = OrbaxWriter(place / PARAMS, leaves, new_tree(leaves))
    if isinstance(opened, StepFolder):
        _copy(opened, writer, leaves, advance)
    else:
        _join(opened, writer, leaves, advance)
    writer.close()
    write_step_metadata(place, [PARAMS])
    notes, file = interface.notes, interface.tokenizer_file
    interface.statistics.write(inside(place / ASSETS, f"{notes.asset_id}/{NORM_STATS}", "a policy's asset id"))
    notes.write(place)
    if file is not None:
        shutil.copyfile(file, place / TOKENIZER)


def _leaf_dtype(opened: StepFolder | TorchFolder, name: str) -> AnyDType:
    """Of a leaf; where its tensors have several types the one that holds them all."""
    if isinstance(opened, StepFolder):
        return opened.leaves[name].dtype
    kinds = {opened.leaves[tensor].dtype for part in parts({name: opened.shapes[name]}) for tensor in part.tensors}
    return kinds.pop() if len(kinds) == 1 else DTYPES["float32"]


def _copy(opened: StepFolder, writer: OrbaxWriter, leaves: Mapping[str, Leaf], advance: Advance) -> None:
    reader = opened.checkpoint.reader
    for name, leaf in leaves.items():
        step = int(np.lcm(writer.alignment(name), reader.alignment(name)))
        for start, stop in cut(0, leaf.size, rounded_up(_PIECE, step)):
            values = reader.read(name, start, stop)
            advance(values.nbytes)
            writer.write(name, start, values.astype(leaf.dtype, copy=False))


def _join(opened: TorchFolder, writer: OrbaxWriter, leaves: Mapping[str, Leaf], advance: Advance) -> None:
    """Layers of each leaf, as many at once as a written chunk holds."""
    waiting = _Waiting(writer)
    for part in parts(opened.shapes):
        leaf = leaves[part.leaf]
        if part.layer is None and part.is_same:
            file, step = opened.files[part.tensors[0]], rounded_up(_PIECE, writer.alignment(part.leaf))
            for start, stop in cut(0, leaf.size, step):
                values = opened.reader.read(file, start, stop)
                advance(values.nbytes)
                writer.write(part.leaf, start, values.astype(leaf.dtype, copy=False))
            continue
        tensors = {name: opened.tensor(name) for name in part.tensors}
        advance(sum(values.nbytes for values in tensors.values()))
        first, shape = part.place(leaf.shape)
        values = joined(part, tensors, shape).astype(leaf.dtype, copy=False)
        waiting.add(part, leaf, first, np.ascontiguousarray(values).reshape(-1))


class _Waiting:
    """Layers of a leaf that are collected until they fill a chunk of the writer, which writes whole ones."""

    def __init__(self, writer: OrbaxWriter) -> None:
        self._writer: Writer = writer
        self._alignment = writer.alignment
        self._first, self._held = 0, list[AnyArray]()

    def add(self, part: Part, leaf: Leaf, first: int, values: AnyArray) -> None:
        """Take the next layer, and write what fills chunks, or ends the leaf."""
        if not self._held:
            self._first = first
        self._held.append(values)
        size = sum(len(each) for each in self._held)
        if self._first + size < leaf.size and size % self._alignment(part.leaf):
            return
        self._writer.write(part.leaf, self._first, np.concatenate(self._held))
        self._held = []
