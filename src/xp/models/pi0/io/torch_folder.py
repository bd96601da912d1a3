"""Folders of pi0 in torch: openpi's (`model.safetensors`, `assets`) and LeRobot's, every tensor checked by its name.

Both hold the same tensors; LeRobot puts `model.` before their names, and keeps the statistics in its processors.
Loaders of both pass over what does not fit: openpi's converter writes with `strict=False`, and LeRobot's
`from_pretrained` prints an error and returns random weights (0.6.1). Nothing here goes through either.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from xp import atomic
from xp.checkpoints.arrays import AnyArray, AnyDType, CorruptFileError, Leaf, Reader
from xp.checkpoints.flat_file import FlatWriter
from xp.checkpoints.lora import folded_tensors
from xp.checkpoints.ranges import cut
from xp.checkpoints.safetensors import MODEL, create_safetensors, open_folder
from xp.errors import UserError
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import RefusedError, member
from xp.foreign.text import printable
from xp.models.misfit import PLURAL, misfit
from xp.models.pi0.io import processor_files
from xp.models.pi0.io.key_map import EMBEDDING, EMBEDDING_TIED, UNUSED, leaf_shapes, tensor_shapes
from xp.models.pi0.io.norm_stats import NormStats, chosen_statistics, write_assets
from xp.models.pi0.io.notes import TOKENIZER, Notes, read_notes
from xp.models.pi0.network.sizes import EXPERTS, Sizes, sizes_from_shapes, weight_shapes

CONFIG = "config.json"
PREFIX = "model."
"""Before LeRobot's names."""
TYPES = ("pi0", "pi05")
"""What LeRobot calls the two models in its configuration."""
_WHAT = "the configuration of a pi0 in torch"
_PIECE = 1 << 20
_MARK = "paligemma_with_expert."


@dataclass(frozen=True, kw_only=True)
class TorchFolder:
    """A saved pi0 in torch, its weights not read."""

    path: Path
    reader: Reader
    config: Fields
    """config.json; empty where there is none."""
    notes: Notes | None
    vision_heads: int | None

    @property
    def prefix(self) -> str:
        """What stands before the names of the tensors."""
        return PREFIX if self.is_lerobot else ""

    @property
    def is_lerobot(self) -> bool:
        """Whether it is LeRobot's."""
        return "type" in self.config

    @cached_property
    def files(self) -> Mapping[str, str]:
        """{tensor by openpi's name: its name in the file}; the table of text is `EMBEDDING`, under whichever name."""
        found = {name.removeprefix(self.prefix): name for name in self.reader.leaves}
        if EMBEDDING_TIED in found:
            found.setdefault(EMBEDDING, found[EMBEDDING_TIED])
            found.pop(EMBEDDING_TIED)
        return found

    @cached_property
    def leaves(self) -> Mapping[str, Leaf]:
        """Header of every tensor by openpi's name."""
        return {name: self.reader.leaves[file] for name, file in self.files.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every leaf that the tensors stand for, by openpi's JAX names."""
        return leaf_shapes({name: leaf.shape for name, leaf in self.leaves.items()}, self.vision_heads, str(self.path))

    @cached_property
    def sizes(self) -> Sizes:
        """Of the network, as the shapes tell them."""
        return sizes_from_shapes(self.shapes, str(self.path))

    @property
    def tokenizer(self) -> str | None:
        """What reads its prompts: the name of one that needs no file, or the file in the folder."""
        if self.notes is None or self.notes.tokenizer != TOKENIZER:
            return self.notes and self.notes.tokenizer
        return str(member(self.path, TOKENIZER, "a policy's tokeniser"))

    def statistics(self, asset_id: str | None) -> tuple[NormStats, str]:
        """See `chosen_statistics`; LeRobot's are those of its processors, which `assets` must agree with."""
        if not self.is_lerobot:
            return chosen_statistics(self.path, asset_id)
        return processor_files.statistics(self.path, asset_id)

    def tensor(self, name: str, dtype: AnyDType | None = None) -> Shaped[np.ndarray, "..."]:
        """One tensor whole, by openpi's name, cast to `dtype`; a copy.

        Raises:
            UserError: its data is missing.
        """
        leaf, file = self.leaves[name], self.files[name]
        found = np.empty(leaf.size, leaf.dtype if dtype is None else dtype)
        try:
            for start, stop in cut(0, leaf.size, _PIECE):
                found[start:stop] = self.reader.read(file, start, stop)
        except CorruptFileError as error:
            raise UserError(
                f"{self.path / MODEL} is damaged: {printable(error)}. Copy it again from where it came from."
            ) from error
        return found.reshape(leaf.shape)


def is_openpi_torch(folder: Path) -> bool:
    """Whether a folder is a pi0 in torch of openpi's layout, by names alone."""
    if not (folder / MODEL).is_file() or "type" in _config(folder):
        return False
    try:
        return any(name.startswith(_MARK) for name in open_folder(folder).leaves)
    except (CorruptFileError, RefusedError):  # whoever loads it says what is wrong
        return False


def is_lerobot_pi0(folder: Path) -> bool:
    """Whether a folder is a pi0 or pi05 of LeRobot's, by names alone."""
    return (folder / MODEL).is_file() and _config(folder).content.get("type") in TYPES


def _config(folder: Path) -> Fields:
    """config.json; empty where there is none, or where it cannot be read (whoever opens the folder says so)."""
    try:
        return read_fields(member(folder, CONFIG, _WHAT), _WHAT) if (folder / CONFIG).exists() else Fields({}, "")
    except RefusedError:
        return Fields({}, "")


def open_torch(folder: Path, vision_heads: int | None = None, *, fold: bool = False) -> TorchFolder:
    """Open a folder, and check that its tensors are those of a pi0, each and no other.

    Args:
        folder: with `model.safetensors`.
        vision_heads: attention heads of the image encoder, where neither notes nor its width tell them.
        fold: whether low-rank updates are added to the weights beside them; else they are tensors of their own.

    Raises:
        UserError: damaged files, a tensor that is missing, too many or of another shape, or that holds no floats.
    """
    try:
        reader: Reader = open_folder(folder)
        reader = folded_tensors(reader, 1.0) if fold else reader
    except CorruptFileError as error:
        raise UserError(f"The weights in {folder} are damaged: {error}. Copy them again.") from error
    config = (
        read_fields(member(folder, CONFIG, _WHAT), _WHAT) if (folder / CONFIG).exists() else Fields({}, str(folder))
    )
    notes = read_notes(folder)
    if notes is None and "type" in config:
        notes = processor_files.foreign_notes(config)
    heads = vision_heads or (notes.vision_heads if notes else None)
    opened = TorchFolder(path=folder, reader=reader, config=config, notes=notes, vision_heads=heads)
    _check(opened)
    return opened


def _check(opened: TorchFolder) -> None:
    wanted = tensor_shapes(weight_shapes(opened.sizes))
    if UNUSED not in opened.leaves:
        wanted.pop(UNUSED)
    said = misfit({name: leaf.shape for name, leaf in opened.leaves.items()}, wanted, PLURAL)
    if said:
        raise UserError(
            f"The weights in {opened.path} are not those of a {opened.sizes.name}: they {said}. Give the folder of a "
            "pi0 or pi0.5 as openpi or LeRobot saved it."
        )
    odd = [name for name, leaf in opened.leaves.items() if not leaf.is_float]
    if odd:
        raise UserError(
            f"The weights in {opened.path} hold {printable(odd[0])} as {opened.leaves[odd[0]].dtype}, as quantised "
            "weights are held. Give the folder of the weights in bfloat16 or float32."
        )
    _check_tied(opened)


def _check_tied(opened: TorchFolder) -> None:
    """The table of text may stand in a file twice; then both must be the same numbers."""
    both = [opened.prefix + name for name in (EMBEDDING, EMBEDDING_TIED)]
    if not all(name in opened.reader.leaves for name in both):
        return
    first, second = (opened.reader.leaves[name] for name in both)
    same = first.shape == second.shape and first.dtype == second.dtype
    for start, stop in cut(0, first.size if same else 0, _PIECE):
        one = opened.reader.read(both[0], start, stop).copy()
        same = same and one.tobytes() == opened.reader.read(both[1], start, stop).tobytes()
    if not same:
        raise UserError(
            f"The weights in {opened.path} have two tables of text that differ ({EMBEDDING} and {EMBEDDING_TIED}), and "
            "the model has one. Take the folder again from where it was trained."
        )


def create_torch(folder: Path, leaves: Mapping[str, Leaf], prefix: str) -> FlatWriter:
    """Begin `model.safetensors` in a folder; `leaves` by openpi's names, the table of text under `EMBEDDING`."""
    named = {prefix + name: Leaf(prefix + name, leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    return create_safetensors(folder, named, ties={prefix + EMBEDDING_TIED: prefix + EMBEDDING}, shard_map={})


def openpi_config(sizes: Sizes, notes: Notes, precision: str) -> dict[str, object]:
    """config.json as openpi's converter writes it; sizes that openpi has no name for are called `custom`.

    openpi has no low-rank updates in torch, and the weights tell whether they are there: the names are those of the
    sizes without them, which stay true when updates are folded.
    """
    names = {value: name for name, value in EXPERTS.items()}
    language, action = (replace(expert, lora_rank=None) for expert in (sizes.language, sizes.action))
    return {
        "action_dim": sizes.action_dim,
        "action_horizon": notes.horizon,
        "paligemma_variant": names.get(language, "custom"),
        "action_expert_variant": names.get(action, "custom"),
        "precision": precision,
    }


def write_beside(
    folder: Path, sizes: Sizes, assets: Mapping[str, NormStats], notes: Notes, tokenizer: Path | None, *, precision: str
) -> None:
    """What stands beside `model.safetensors` in openpi's layout: configuration, statistics, xp's notes, tokeniser."""
    atomic.write_json(folder / CONFIG, openpi_config(sizes, notes, precision), durable=False)
    write_assets(folder, assets)
    notes.write(folder)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / TOKENIZER)


def pieces(values: AnyArray) -> Iterator[tuple[int, AnyArray]]:
    """An array flattened, in pieces that a writer takes: (first element, values)."""
    flat = np.ascontiguousarray(values).reshape(-1)
    for start, stop in cut(0, flat.size, _PIECE):
        yield start, flat[start:stop]
