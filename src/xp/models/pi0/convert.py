"""Converts a pi0 between openpi's JAX folders, openpi's folders in torch and LeRobot's, layer by layer.

No number changes but by a cast that is asked for. Memory is a layer of the largest leaf, a few times for each of two
threads; every leaf is read once, in order, by one of them. A low-rank update beside a weight is folded into it.
"""

import math
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import batched, groupby
from pathlib import Path

import ml_dtypes
import numpy as np

from xp import atomic
from xp.checkpoints.arrays import AnyArray, AnyDType, CorruptFileError, Leaf, Reader
from xp.checkpoints.contiguous import contiguous
from xp.checkpoints.orbax import OrbaxWriter, write_step_metadata
from xp.checkpoints.ranges import cut, rounded_up
from xp.errors import UserError, join_names
from xp.foreign.text import printable
from xp.models.misfit import misfit
from xp.models.pi0.interface import Interface, saved_interface, whole_number
from xp.models.pi0.io import processor_files
from xp.models.pi0.io.folder import PARAMS, StepFolder, is_pi0, new_tree, open_step
from xp.models.pi0.io.key_map import UNUSED, Part, joined, leaf_shapes, parts, tensor_shapes
from xp.models.pi0.io.moving import Advance, Job, Piece, move
from xp.models.pi0.io.norm_stats import write_assets
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
_PIECE = 1 << 20
"""Elements that are moved at once, about: of a leaf without layers, or of small layers together."""


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

    @property
    def is_chosen(self) -> bool:
        """Whether it is the policy of one dataset of a mixture, which the options chose."""
        notes = self.opened.notes
        return notes is not None and bool(notes.members) and not self.interface.notes.members


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
        UserError: a file is damaged, or a policy of several datasets is to be LeRobot's.
    """
    assets = source.interface.assets
    if to == LEROBOT and len(assets) > 1:
        raise UserError(
            f"The policy in {source.opened.path} was trained on {len(assets)} datasets ({join_names(assets)}), and "
            "LeRobot's processors hold the statistics of one. Choose it: "
            f"'convert.load_options={{unnorm_key: {next(iter(assets))}}}'"
        )
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
    jobs = _cut_up(opened) if isinstance(opened, StepFolder) else _renamed(opened)
    move(
        jobs,
        lambda name, start, values: writer.write(prefix + name, start, values.astype(leaves[name].dtype, copy=False)),
        advance,
    )
    writer.close()  # the unused matrix, where the source has none, stays the zeros that an unwritten range is
    notes, file = interface.notes, interface.tokenizer_file
    precision = "bfloat16" if any(leaf.dtype == DTYPES["bfloat16"] for leaf in leaves.values()) else "float32"
    if to == TORCH:
        write_beside(target, source.sizes, interface.assets, notes, file, precision=precision)
        return
    processor_files.write(target, source.sizes, interface.statistics, notes, precision)
    write_assets(target, interface.assets)
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


def _renamed(opened: TorchFolder) -> Iterator[Job]:
    """Tensors as they are."""
    for name, leaf in opened.leaves.items():
        yield Job(leaf.nbytes, _as_it_is(opened.reader, name, opened.files[name], leaf.size, _PIECE))


def _as_it_is(reader: Reader, name: str, source: str, size: int, step: int) -> Iterator[Piece]:
    for start, stop in cut(0, size, step):
        values = reader.read(source, start, stop)
        yield Piece(name, start, values, values.nbytes)


def _cut_up(opened: StepFolder) -> Iterator[Job]:
    """Leaves as tensors."""
    for name, each in groupby(parts(opened.shapes), lambda part: part.leaf):
        yield Job(opened.leaves[name].nbytes, _tensors(opened, opened.leaves[name], list(each)))


def _tensors(opened: StepFolder, leaf: Leaf, layers: Sequence[Part]) -> Iterator[Piece]:
    """The tensors of a leaf, layer by layer."""
    reader = opened.checkpoint.reader
    if _is_whole(layers):
        step = rounded_up(_PIECE, reader.alignment(leaf.name))
        yield from _as_it_is(reader, layers[0].tensors[0], leaf.name, leaf.size, step)
        return
    size = max(leaf.size // len(layers), 1)
    for together in batched(layers, max(_PIECE // size, 1)):
        first, shape = together[0].place(leaf.shape)
        values = reader.read(leaf.name, first, first + len(together) * math.prod(shape))
        read = values.nbytes
        for part, layer in zip(together, values.reshape(len(together), *shape), strict=True):
            for name, tensor in zip(part.tensors, part.way.split(layer), strict=True):
                yield Piece(name, 0, contiguous(tensor).reshape(-1), read)
                read = 0


def _is_whole(layers: Sequence[Part]) -> bool:
    """Whether a leaf has no layers and is its tensor, so that any range of it is one of the tensor."""
    return layers[0].layer is None and layers[0].is_same


def _to_jax(source: Source, target: Path, cast: AnyDType | None, advance: Advance) -> None:
    opened, interface = source.opened, source.interface
    place = target / str(interface.step)
    shapes = opened.shapes
    leaves = {name: Leaf(name, shape, cast or _leaf_dtype(opened, name)) for name, shape in shapes.items()}
    writer = OrbaxWriter(place / PARAMS, leaves, new_tree(leaves))
    writing = threading.Lock()

    def write(name: str, start: int, values: AnyArray) -> None:
        with writing:  # a chunk is held twice while it is written: one at a time, while the next is put together
            writer.write(name, start, values.astype(leaves[name].dtype, copy=False))

    move(_copied(opened, writer) if isinstance(opened, StepFolder) else _joined(opened, writer, leaves), write, advance)
    if UNUSED in opened.leaves:
        advance(opened.leaves[UNUSED].nbytes)  # no leaf is made of it
    writer.close()
    write_step_metadata(place, [PARAMS])
    notes, file = interface.notes, interface.tokenizer_file
    write_assets(place, interface.assets)
    notes.write(place)
    if file is not None:
        shutil.copyfile(file, place / TOKENIZER)


def _leaf_dtype(opened: StepFolder | TorchFolder, name: str) -> AnyDType:
    """Of a leaf; where its tensors have several types the one that holds them all."""
    if isinstance(opened, StepFolder):
        return opened.leaves[name].dtype
    kinds = {opened.leaves[tensor].dtype for part in parts({name: opened.shapes[name]}) for tensor in part.tensors}
    return kinds.pop() if len(kinds) == 1 else DTYPES["float32"]


def _copied(opened: StepFolder, writer: OrbaxWriter) -> Iterator[Job]:
    """Leaves as they are, in pieces that fill chunks of the writer."""
    reader = opened.checkpoint.reader
    for name, leaf in opened.leaves.items():
        step = rounded_up(_PIECE, math.lcm(writer.alignment(name), reader.alignment(name)))
        yield Job(leaf.nbytes, _as_it_is(reader, name, name, leaf.size, step))


def _joined(opened: TorchFolder, writer: OrbaxWriter, leaves: Mapping[str, Leaf]) -> Iterator[Job]:
    """Tensors as leaves."""
    for name, each in groupby(parts(opened.shapes), lambda part: part.leaf):
        yield Job(leaves[name].nbytes, _layers(opened, leaves[name], list(each), writer.alignment(name)))


def _layers(opened: TorchFolder, leaf: Leaf, layers: Sequence[Part], alignment: int) -> Iterator[Piece]:
    """A leaf from its tensors, as many layers at once as fill chunks of the writer, of `alignment` elements each."""
    if _is_whole(layers):
        file = opened.files[layers[0].tensors[0]]
        yield from _as_it_is(opened.reader, leaf.name, file, leaf.size, rounded_up(_PIECE, alignment))
        return
    size = max(leaf.size // len(layers), 1)
    unit = math.lcm(size, alignment) // size
    count = min(max(_PIECE // (unit * size), 1) * unit, len(layers))
    room = np.empty(count * size, leaf.dtype)
    for together in batched(layers, count):
        first, shape = together[0].place(leaf.shape)
        filled = room[: len(together) * size]
        read = 0
        for part, layer in zip(together, filled.reshape(len(together), *shape), strict=True):
            read += _fill(opened, part, layer)
        yield Piece(leaf.name, first, filled, read)


def _fill(opened: TorchFolder, part: Part, layer: np.ndarray) -> int:
    """Put a layer together from its tensors; gives how many bytes of them were read."""
    if len(part.tensors) == 1:
        name = part.tensors[0]
        header = opened.leaves[name]
        tensors = {name: opened.reader.read(opened.files[name], 0, header.size).reshape(header.shape)}
    else:
        tensors = {name: opened.tensor(name) for name in part.tensors}
    contiguous(joined(part, tensors, layer.shape), layer)
    return sum(values.nbytes for values in tensors.values())
