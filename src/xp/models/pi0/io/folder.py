"""Reads and writes openpi's folders: weights in `STEP/params`, statistics in `STEP/assets/ASSET_ID/norm_stats.json`.

Weights are read leaf by leaf, so that memory is theirs once and one piece more, and written in chunks of a few layers.
What is saved has the layout of openpi's `save_state` (key paths that begin with `params` and end in `value`), with xp's
notes (`xp_pi0.json`) and the tokeniser beside it, which openpi does not look at.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from xp import atomic
from xp.checkpoints.arrays import AnyDType, CorruptFileError, Leaf, Reader, aligned_empty
from xp.checkpoints.open import Checkpoint, open_checkpoint
from xp.checkpoints.orbax import METADATA, OrbaxWriter, Tree, TreeEntry, read_tree_metadata, write_step_metadata
from xp.checkpoints.ranges import cut, rounded_up
from xp.errors import UserError, join_names
from xp.foreign.paths import member
from xp.foreign.text import printable
from xp.json_types import JSON
from xp.models.pi0.io.norm_stats import NormStats, chosen_statistics, write_assets
from xp.models.pi0.io.notes import TOKENIZER, Notes, read_notes

PARAMS = "params"
_STEP = re.compile(r"[0-9]{1,18}")
_PIECE = 16 << 20
"""Elements that are read at once, about."""


@dataclass(frozen=True, kw_only=True)
class StepFolder:
    """One step of a saved pi0, its weights not read yet."""

    path: Path
    """The step's folder, which holds `params`."""
    checkpoint: Checkpoint
    notes: Notes | None

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Shape and type of every weight by its path."""
        return self.checkpoint.reader.leaves

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by its path."""
        return {path: leaf.shape for path, leaf in self.leaves.items()}

    @property
    def tokenizer(self) -> str | None:
        """What reads its prompts: the name of one that needs no file, or the file in the folder."""
        if self.notes is None or self.notes.tokenizer != TOKENIZER:
            return self.notes and self.notes.tokenizer
        return str(member(self.path, TOKENIZER, "a policy's tokeniser"))

    def read(self, path: str, dtype: AnyDType | None = None) -> Shaped[np.ndarray, "..."]:
        """One weight whole, cast to `dtype`; at most a piece of it is in memory twice.

        Raises:
            UserError: its data is missing or damaged.
        """
        try:
            return _whole(self.checkpoint.reader, self.leaves[path], dtype)
        except CorruptFileError as error:
            raise UserError(
                f"The checkpoint {self.path} is damaged: {printable(error)}. Copy it again from where it came from, or "
                "take another step of its run."
            ) from error

    def statistics(self, asset_id: str | None) -> tuple[NormStats, str]:
        """The statistics of an asset (None: the only one), and its id.

        Raises:
            UserError: there are none, not those that were asked for, or several and none was chosen.
        """
        return chosen_statistics(self.path, asset_id)


def steps_of(folder: Path) -> list[int]:
    """Steps below a folder that hold an Orbax tree, ascending."""
    names = [entry.name for entry in folder.iterdir() if _STEP.fullmatch(entry.name)] if folder.is_dir() else []
    return sorted(int(name) for name in names if os.path.lexists(folder / name / PARAMS / METADATA))


def is_pi0(folder: Path) -> bool:
    """Whether a folder is a saved pi0: a `params` folder, a step or steps of one, by the names of its weights.

    Raises:
        UserError: a tree's index is damaged.
    """
    place = _params(folder)
    if place is None:
        return False
    try:
        return any(name.startswith("PaliGemma/llm/") for name in read_tree_metadata(place).entries)
    except CorruptFileError as error:
        raise UserError(
            f"The checkpoint {place} is damaged: {printable(error)}. Copy it again from where it came from."
        ) from error


def _params(folder: Path) -> Path | None:
    """The newest tree that a folder means."""
    steps = [folder / str(step) / PARAMS for step in steps_of(folder)[-1:]]
    places = [folder / PARAMS, *steps] if folder.name != PARAMS else [folder]
    return next((place for place in places if os.path.lexists(place / METADATA)), None)


def open_step(folder: Path, step: int | None = None, *, fold: bool = False) -> StepFolder:
    """One step of a saved pi0 (None: the newest); `fold` adds its low-rank updates to the weights beside them.

    Raises:
        UserError: a step that is not there, a damaged or half-written tree, or damaged notes.
    """
    steps = steps_of(folder)
    if step is not None and step not in steps:
        raise UserError(
            f"{folder} has no step {step}: its steps are {join_names(map(str, steps))}. Type one of these after the @, "
            "or leave the @ out for the newest."
        )
    opened = open_checkpoint(folder / str(step) if step is not None else folder, fold=fold)
    place = opened.sidecar or opened.place
    return StepFolder(path=place, checkpoint=opened, notes=read_notes(place))


def _whole(reader: Reader, leaf: Leaf, dtype: AnyDType | None) -> Shaped[np.ndarray, "..."]:
    found = aligned_empty(leaf.shape, leaf.dtype if dtype is None else dtype)
    flat = found.reshape(-1)
    for start, stop in cut(0, leaf.size, rounded_up(min(_PIECE, max(leaf.size, 1)), reader.alignment(leaf.name))):
        flat[start:stop] = reader.read(leaf.name, start, stop)
    return found


def write_step(
    folder: Path,
    step: int,
    weights: Mapping[str, np.ndarray],
    assets: Mapping[str, NormStats],
    notes: Notes,
    tokenizer: Path | None,
) -> None:
    """Write a folder with one step, whole or not at all, replacing what stands there.

    Args:
        folder: the policy's folder.
        step: the name of the step below it.
        weights: every weight by its path.
        assets: {asset id: statistics}: one, or one for each dataset of a mixture.
        notes: xp's own.
        tokenizer: the file of PaliGemma's tokeniser, copied beside the weights; None where it is not at hand.
    """
    with atomic.folder(folder) as target:
        place = target / str(step)
        leaves = {path: Leaf(path, array.shape, array.dtype) for path, array in weights.items()}
        writer = OrbaxWriter(place / PARAMS, leaves, new_tree(leaves))
        for path, array in weights.items():
            flat = np.ascontiguousarray(array).reshape(-1)
            most = rounded_up(_PIECE, writer.alignment(path))
            for start, stop in cut(0, flat.size, most):
                writer.write(path, start, flat[start:stop])
        writer.close()
        write_step_metadata(place, [PARAMS])
        write_assets(place, assets)
        notes.write(place)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, place / TOKENIZER)


def new_tree(leaves: Mapping[str, Leaf]) -> Tree:
    """The index of a new checkpoint, as openpi's `save_state` names its leaves."""
    entries: dict[str, TreeEntry] = {}
    for path in leaves:
        keys = [PARAMS, *path.split("/"), "value"]
        parts: list[JSON] = [{"key": key, "key_type": 2} for key in keys]
        value: dict[str, JSON] = {"value_type": "np.ndarray", "skip_deserialize": False}
        entries[path] = TreeEntry(str(tuple(keys)), keys, {"key_metadata": parts, "value_metadata": value})
    content: dict[str, JSON] = {"use_zarr3": False, "store_array_data_equal_to_fill_value": True}
    return Tree({**content, "custom_metadata": None}, entries)
