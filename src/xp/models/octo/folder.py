"""Octo's folder: `STEP/default/checkpoint` (msgpack), config.json, example_batch.msgpack, dataset_statistics.json."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xp.errors import UserError, listing
from xp.models.octo.msgpack_file import Leaf, read_leaves, read_tree, scan_tree, write_tree
from xp.models.octo.spec import mended_spec
from xp.models.tree import flatten, unflatten
from xp.runs import atomic

FILES = ("config.json", "example_batch.msgpack", "dataset_statistics.json")


@dataclass(frozen=True, kw_only=True)
class OctoFolder:
    """What stands beside the weights: the configuration, a batch that shows the shapes, the statistics."""

    config: dict[str, Any]
    example: dict[str, Any]
    statistics: dict[str, Any]
    step: int


def is_octo_folder(path: Path) -> bool:
    """Whether a folder holds at least one `STEP/default/checkpoint`."""
    return path.is_dir() and bool(steps_of(path))


def steps_of(path: Path) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    found = [entry.name for entry in path.iterdir() if entry.name.isdigit()] if path.is_dir() else []
    return sorted(int(name) for name in found if (path / name / "default" / "checkpoint").is_file())


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one step, not read yet: `leaves` by path, each with its shape and dtype."""

    path: Path
    leaves: Mapping[str, Leaf]

    def read(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """The arrays of the given paths; None: all of them."""
        wanted = self.leaves if names is None else {name: self.leaves[name] for name in names}
        return read_leaves(self.path, wanted)


def open_folder(path: Path, step: int | None = None) -> tuple[OctoFolder, Checkpoint]:
    """What stands in an Octo folder, and the weights of `step` (None: the newest), which are read when asked for.

    Raises:
        UserError: a missing or damaged file, or a step that is not there.
    """
    steps = steps_of(path)
    if step is not None and step not in steps:
        raise UserError(
            f"{path} has no step {step}: its steps are {listing(map(str, steps))}. Type one of these after the @, or "
            "leave the @ out for the newest."
        )
    if not steps:
        raise UserError(f"{path} has no STEP/default/checkpoint. Give the folder that an Octo was saved in.")
    chosen = steps[-1] if step is None else step
    folder = OctoFolder(
        config=_read_config(path),
        example=_mended_example(read_tree(_there(path, "example_batch.msgpack"))),
        statistics=_read_json(_there(path, "dataset_statistics.json")),
        step=chosen,
    )
    return folder, _open_weights(path / str(chosen) / "default" / "checkpoint")


def _open_weights(path: Path) -> Checkpoint:
    tree = scan_tree(path)
    flat = flatten(tree) if isinstance(tree, Mapping) else {}
    if not flat or not all(isinstance(leaf, Leaf) for leaf in flat.values()):
        raise UserError(
            f"The file {path} is a msgpack file but holds no tree of weights. Give the folder of a saved Octo."
        )
    return Checkpoint(path, flat)


def _there(path: Path, name: str) -> Path:
    if not (path / name).is_file():
        raise UserError(
            f"{path} holds an Octo checkpoint but lacks {name}. An Octo folder has {listing(FILES)} beside its steps: "
            "copy the missing file from where the checkpoint came from."
        )
    return path / name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"The file {path} is not JSON ({error}). Copy it again from where it came from.") from error


def _read_config(path: Path) -> dict[str, Any]:
    config = _read_json(_there(path, "config.json"))
    model = config.get("model")
    if not isinstance(model, Mapping) or "heads" not in model or "observation_tokenizers" not in model:
        raise UserError(
            f"{path / 'config.json'} does not describe an Octo: its entry 'model' should hold observation_tokenizers "
            f"and heads, and the file has {listing(config)}. Give the config.json saved with the weights."
        )
    return {**config, "model": mended_spec(model)}


def _mended_example(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example batch of any release with today's names."""
    mended = dict(example)
    if "tasks" in mended:
        mended["task"] = mended.pop("tasks")
    observation = dict(mended.get("observation", {}))
    if "pad_mask" in observation:
        observation["timestep_pad_mask"] = observation.pop("pad_mask")
    mended["observation"] = observation
    return mended


def write_folder(path: Path, folder: OctoFolder, weights: Mapping[str, Any]) -> None:
    """Write an Octo folder whole or not at all, replacing what stands at `path`; `weights` flat by path."""
    with atomic.folder(path) as target:
        default = target / str(folder.step) / "default"
        default.mkdir(parents=True)
        write_tree(default / "checkpoint", unflatten(weights))
        (default / "_METADATA").write_text(json.dumps(_orbax_metadata(weights)), encoding="utf-8")
        write_tree(target / "example_batch.msgpack", folder.example)
        _write_json(target / "config.json", folder.config)
        _write_json(target / "dataset_statistics.json", folder.statistics)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(atomic.plain(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _orbax_metadata(weights: Mapping[str, Any]) -> dict[str, Any]:
    """What Orbax 0.4 writes beside an aggregated checkpoint: each leaf's keys, all of them kept in the msgpack."""
    entries = {}
    for path in sorted(weights):
        keys = tuple(path.split("/"))
        entries[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": True},
        }
    return {"tree_metadata": entries}
