# pyright: strict
"""Opening a checkpoint, whose format its files tell, and beginning a new one in the same format.

`sidecar` is the folder of what stands beside the weights: configuration, statistics, processors. No pickle is ever
run: of a `model.pth` in torch's archive the places of its tensors are read, all other pickle files are refused.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xp import atomic
from xp.checkpoints import orbax, torch_archive
from xp.checkpoints.adapter_base import named_base, sidecar_of
from xp.checkpoints.arrays import CorruptFileError, Leaf, Reader, Writer
from xp.checkpoints.flax_msgpack import create_msgpack, open_msgpack, orbax_metadata
from xp.checkpoints.lora import folded_tensors, folded_tree
from xp.checkpoints.peft_adapter import HELD_BASE, is_adapter, open_adapter
from xp.checkpoints.reference import CheckpointRef
from xp.checkpoints.run_layout import candidate_policy_dirs, checkpoint_steps
from xp.checkpoints.safetensors import INDEX, MODEL, create_safetensors, open_folder, open_safetensors
from xp.errors import UserError, join_names
from xp.foreign.paths import RefusedError

STEP = "0"
"""The step under which formats with steps store a merged checkpoint."""
TORCH_ARCHIVE = "torch_archive"
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """One input. `path` is what the user gave."""

    path: Path
    kind: str
    """orbax, flax_msgpack, safetensors or torch_archive."""
    place: Path
    """What holds the weights: a params folder, a msgpack file, a folder or file of safetensors, or model.pth's."""
    sidecar: Path | None
    """The folder whose small files describe the model; None for a lone file."""
    reader: Reader = field(compare=False)
    base: Path | None = None
    """Of an adapter: what it was folded into."""
    layers: tuple[Path, ...] = ()
    """Where its small files are copied from, later ones over earlier ones; empty: `sidecar` alone."""


def open_checkpoint(
    path: str | Path,
    *,
    base: str | Path | None = None,
    lora_scale: float = 1.0,
    fold: bool = True,
    held: Callable[[Reader], Reader] | None = None,
) -> Checkpoint:
    """Open the headers of a checkpoint: a policy folder, a step of one, a params folder, a file, or an xp run.

    Args:
        path: the place; `FOLDER@STEP` chooses a step.
        base: for a LoRA adapter whose configuration names no folder beside it: the checkpoint it was trained on.
        lora_scale: alpha / rank of LoRA weights that stand in a checkpoint beside the weights they adapt.
        fold: whether those are folded in; else they are leaves of their own.
        held: for an adapter that was trained on a quantised base: the base's weights as they were then.

    Raises:
        UserError: nothing there that can be merged, a damaged file, or an adapter of a quantised base without `held`.
    """
    root, step = _asked(path)
    if not root.exists():
        raise UserError(f"There is no checkpoint {root}. Give a run's or a policy's folder: merge.checkpoints=[A,B,C]")
    try:
        return _opened(root, *_found(root, step), base=base, lora_scale=lora_scale if fold else None, held=held)
    except RefusedError as error:
        raise UserError(f"The checkpoint {path} is damaged: {error} Nothing was written.") from error
    except CorruptFileError as error:
        raise UserError(
            f"The checkpoint {path} is damaged: {error}. Nothing was written. Copy it again from where it came "
            "from, or take another step of its run."
        ) from error


def _asked(path: str | Path) -> tuple[Path, int | None]:
    reference = CheckpointRef.parse(path)
    return reference.path, reference.step


def _found(root: Path, step: int | None) -> tuple[str, Path, Path | None]:
    """Format, place of the weights and folder of the sidecar files of what lies at `root`."""
    for candidate in _candidates(root, step):
        for find in (_orbax, _flax_msgpack, _safetensors, _torch_archive):
            found = find(candidate, step if candidate == root else None)
            if found is not None:
                return found
    raise UserError(_nothing(root, step))


def _candidates(root: Path, step: int | None) -> list[Path]:
    """The folder itself, then the places where a run keeps policies; those first where a step of a run is asked for."""
    places = candidate_policy_dirs(root, step)
    return [*places, root] if step is not None and checkpoint_steps(root) else [root, *places]


def step_paths(path: str | Path) -> list[str]:
    """Every step of one run, oldest first, as paths for `open_checkpoint`: what ema and swa average over.

    Raises:
        UserError: fewer than two steps.
    """
    root = Path(path)
    numbers = sorted(checkpoint_steps(root)) or sorted(_numbered(root))
    if len(numbers) < 2:
        raise UserError(
            f"{root} keeps {len(numbers)} steps, and averaging over a run needs two or more. Train with a larger "
            "trainer.keep_checkpoints, or name the checkpoints yourself: merge.checkpoints=[RUN@200,RUN@400]"
        )
    return [f"{root}@{number}" for number in numbers]


def _orbax(folder: Path, step: int | None) -> tuple[str, Path, Path] | None:
    if (folder / orbax.METADATA).is_file():
        return "orbax", folder, folder.parent if folder.name == "params" else folder
    if (folder / "params" / orbax.METADATA).is_file():
        return "orbax", folder / "params", folder
    steps = [n for n in _numbered(folder) if (folder / str(n) / "params" / orbax.METADATA).is_file()]
    chosen = step if step in steps else max(steps, default=None) if step is None else None
    if chosen is None:
        return None
    return "orbax", folder / str(chosen) / "params", folder / str(chosen)


def _flax_msgpack(folder: Path, step: int | None) -> tuple[str, Path, Path] | None:
    if (folder / "default" / "checkpoint").is_file():
        return "flax_msgpack", folder / "default" / "checkpoint", folder.parent
    steps = [n for n in _numbered(folder) if (folder / str(n) / "default" / "checkpoint").is_file()]
    chosen = step if step in steps else max(steps, default=None) if step is None else None
    return None if chosen is None else ("flax_msgpack", folder / str(chosen) / "default" / "checkpoint", folder)


def _safetensors(folder: Path, step: int | None) -> tuple[str, Path, Path | None] | None:
    if folder.is_file() and folder.suffix == ".safetensors":
        return "safetensors", folder, None
    if any((folder / name).is_file() for name in (MODEL, INDEX)) or is_adapter(folder):
        return "safetensors", folder, folder
    if (folder / "pretrained_model").is_dir():  # a step as some trainings save it
        return _safetensors(folder / "pretrained_model", None)
    return None


def _torch_archive(folder: Path, step: int | None) -> tuple[str, Path, Path] | None:
    return (TORCH_ARCHIVE, folder, folder) if (folder / torch_archive.MODEL).exists() else None


def _numbered(folder: Path) -> list[int]:
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return [int(name) for name in names if re.fullmatch(r"[0-9]{1,18}", name)]


def _opened(
    path: Path,
    kind: str,
    place: Path,
    sidecar: Path | None,
    *,
    base: str | Path | None,
    lora_scale: float | None,
    held: Callable[[Reader], Reader] | None = None,
) -> Checkpoint:
    if kind == "orbax":
        tree = orbax.OrbaxReader(place)
        reader: Reader = tree if lora_scale is None else folded_tree(tree, lora_scale)
    elif kind == "flax_msgpack":
        reader = open_msgpack(place)
    elif kind == TORCH_ARCHIVE:
        reader = torch_archive.open_torch_archive(place)
    elif is_adapter(place):
        return _folded(path, place, base, held)
    else:
        tensors = open_safetensors((place,)) if place.is_file() else open_folder(place)
        reader = tensors if lora_scale is None else folded_tensors(tensors, lora_scale)
    return Checkpoint(path, kind, place, sidecar, reader)


def _folded(path: Path, place: Path, base: str | Path | None, held: Callable[[Reader], Reader] | None) -> Checkpoint:
    """An adapter, folded into the base that is given or that lies beside it."""
    is_held = os.path.lexists(place / HELD_BASE)
    if is_held and held is None:
        raise UserError(
            f"{place} was trained on a base held in 4 or 8 bit ({HELD_BASE}): added to other weights it is another "
            "policy. Write it with the weights that it was trained on, in Python: "
            "xp.models.load_policy(FOLDER, base=BASE).save(OTHER), and merge OTHER."
        )
    if (place / MODEL).exists() or (place / INDEX).exists():
        raise UserError(
            f"{place} holds a whole model and an adapter, and it is unclear which of them is meant. Move one of them "
            f"into a folder of its own: {MODEL}, or adapter_config.json and adapter_model.safetensors."
        )
    own = named_base(place, given=base is not None)
    root, step = _asked(base) if base is not None else (own, None)
    assert root is not None
    if not root.exists():
        raise UserError(f"There is no checkpoint {root}. Give the one that {place} was trained on: merge.base=FOLDER")
    kind, under, sidecar = _found(root, step)
    if own is not None and base is not None and _found(own, None)[1].resolve() != under.resolve():
        raise UserError(
            f"{place} was trained on {own}, by its adapter_config.json, and merge.base is {root}. Fold the adapter "
            f"into its own base first: {_fold(place, own)}"
        )
    if is_adapter(under):
        raise UserError(
            f"The base of {place} is an adapter itself: {under}. Fold that one into its base first, and give the "
            f"outcome: {_fold(under, 'FOLDER')}, then merge.base=OUTPUT"
        )
    below = _opened(root, kind, under, sidecar, base=None, lora_scale=1.0)
    own_sidecar, layers = sidecar_of(place, below.sidecar)
    reader = held(below.reader) if is_held and held is not None else below.reader
    return Checkpoint(path, kind, place, own_sidecar, open_adapter(place, reader), below.place, layers)


def _fold(adapter: Path, base: Path | str) -> str:
    """The command line that writes an adapter's weights folded into its base."""
    return (
        f"xp task=merge merge_method=interpolate merge_method.alpha=1 merge.checkpoints=[{adapter}] merge.base={base} "
        "merge.output=OUTPUT"
    )


def _nothing(root: Path, step: int | None) -> str:
    inside = sorted(entry.name for entry in root.iterdir())[:12] if root.is_dir() else [root.name]
    pickles = [name for name in inside if name.endswith(PICKLES)]
    reason = (
        f" {join_names(pickles)} are pickle files, which can run code when they are read: they are not "
        f"opened. Save the "
        "weights as safetensors instead."
        if pickles
        else ""
    )
    at = f" at step {step}" if step is not None else ""
    return (
        f"Nothing in {root}{at} can be merged: looked for params/_METADATA (Orbax), STEP/default/checkpoint "
        "(Flax msgpack), model.safetensors, its index or adapter_model.safetensors, model.pth (torch's archive), and "
        f"for final/, best/ or checkpoints/ of a run; there is {join_names(inside)}.{reason} Give "
        "merge.checkpoints=[FOLDER,FOLDER,...]"
    )


def create_like(first: Checkpoint, output: Path, leaves: Mapping[str, Leaf]) -> Writer:
    """Begin a checkpoint in the format of `first` in the empty folder `output`."""
    if first.kind == "orbax":
        step = output / STEP
        writer = orbax.OrbaxWriter(step / "params", leaves, orbax.read_tree_metadata(first.place))
        orbax.write_step_metadata(step, ["params"])
        return writer
    if first.kind == "flax_msgpack":
        folder = output / STEP / "default"
        writer = create_msgpack(folder, leaves)
        atomic.write_json(folder / "_METADATA", orbax_metadata(list(leaves)), durable=False)
        return writer
    if first.kind == TORCH_ARCHIVE:
        return torch_archive.TorchArchiveWriter(output, leaves)
    return create_safetensors(output, leaves, ties=first.reader.ties, shard_map=_shard_map(first))


def _shard_map(first: Checkpoint) -> dict[str, str]:
    """Which shard each leaf lies in, where the input has shards."""
    files: tuple[Path, ...] = getattr(first.reader, "files", ())
    file_of: Callable[[str], Path] | None = getattr(first.reader, "file_of", None)
    if len(files) < 2 or file_of is None:
        return {}
    return {name: file_of(name).name for name in first.reader.leaves}


def place_in(kind: str, output: Path) -> Path:
    """Where `open_checkpoint` finds what `create_like` wrote."""
    return output / STEP if kind == "orbax" else output
