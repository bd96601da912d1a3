"""Reads and writes Octo's folder: weights in `STEP/default/checkpoint`, and beside the steps the sidecar."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from xp import atomic
from xp.checkpoints.arrays import CorruptFileError, Leaf
from xp.checkpoints.flat_file import FlatReader
from xp.checkpoints.flax_msgpack import open_msgpack, orbax_metadata, read_tree, write_tree
from xp.errors import UserError, join_names
from xp.foreign.json_file import Fields, read_fields, read_object
from xp.foreign.paths import member
from xp.foreign.text import printable, shown
from xp.models.octo.io.spec import OctoConfig, upgrade_spec
from xp.models.tree import Tree, branch, unflatten

_STEP = re.compile(r"[0-9]{1,18}")
_WIDEST = 1_000_000
FILES = ("config.json", "example_batch.msgpack", "dataset_statistics.json")


@dataclass(frozen=True, kw_only=True)
class OctoSidecar:
    """What stands beside the weights: the configuration, a batch that shows the shapes, the statistics."""

    config: OctoConfig
    example: Tree[np.ndarray]
    """A batch in Octo's form, `observation`, `task`, `action`, ...: its shapes are those of the training."""
    statistics: Mapping[str, object]
    """Of one dataset, `action` and `proprio`, or of several by their names; checked where they are read."""
    step: int


def steps_of(path: Path) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    found = [entry.name for entry in path.iterdir() if _STEP.fullmatch(entry.name)] if path.is_dir() else []
    return sorted(int(name) for name in found if os.path.lexists(path / name / "default" / "checkpoint"))


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one step, not read yet."""

    path: Path
    reader: FlatReader

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Shape and dtype of every array by its path."""
        return self.reader.leaves

    def read(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """The arrays of the given paths; None: all of them.

        Raises:
            UserError: the file became shorter since it was opened.
        """
        try:
            return self.reader.load(names)
        except CorruptFileError:
            raise UserError("The checkpoint became shorter while it was read. Give the same command again.") from None


def open_folder(path: Path, step: int | None = None) -> tuple[OctoSidecar, Checkpoint]:
    """What stands in an Octo folder, and the weights of `step` (None: the newest), which are read when asked for.

    Raises:
        UserError: a missing or damaged file, or a step that is not there.
    """
    steps = steps_of(path)
    if step is not None and step not in steps:
        raise UserError(
            f"{path} has no step {step}: its steps are {join_names(map(str, steps))}. Type one of "
            f"these after the @, or "
            "leave the @ out for the newest."
        )
    if not steps:
        raise UserError(f"{path} has no STEP/default/checkpoint. Give the folder that an Octo was saved in.")
    chosen = steps[-1] if step is None else step
    sidecar = OctoSidecar(
        config=_read_config(path),
        example=_read_example(_there(path, "example_batch.msgpack")),
        statistics=read_object(_there(path, "dataset_statistics.json"), "an Octo's statistics"),
        step=chosen,
    )
    weights = _open_weights(member(path, f"{chosen}/default/checkpoint", f"the weights of step {chosen}"))
    _check_sizes(sidecar, weights, path / "config.json")
    return sidecar, weights


def _open_weights(path: Path) -> Checkpoint:
    try:
        return Checkpoint(path, open_msgpack(path, "an Octo"))
    except CorruptFileError:
        raise UserError(
            f"The file {path} is a msgpack file but holds no tree of weights. Give the folder of a saved Octo."
        ) from None


def _there(path: Path, name: str) -> Path:
    if not os.path.lexists(path / name):
        raise UserError(
            f"{path} holds an Octo checkpoint but lacks {name}. An Octo folder has {join_names(FILES)} "
            f"beside its steps: "
            "copy the missing file from where the checkpoint came from."
        )
    return member(path, name, f"an Octo's {name}")


def _read_config(path: Path) -> OctoConfig:
    """config.json with its model in today's form; its modules, keys and numbers are checked where they are used."""
    config = read_fields(_there(path, "config.json"), "an Octo's configuration")
    model = config.content.get("model")
    if not isinstance(model, Mapping) or "heads" not in model or "observation_tokenizers" not in model:
        raise UserError(
            f"{path / 'config.json'} does not describe an Octo: its entry 'model' should hold observation_tokenizers "
            f"and heads, and the file has {printable(join_names(config.content), 400)}. Give the "
            f"config.json saved with "
            "the weights."
        )
    parts = config.object("model")
    for role in ("heads", "observation_tokenizers", "task_tokenizers"):
        for _, spec in parts.object(role, Fields({}, parts.source)).objects():
            spec.text("name", most=256)
            spec.object("kwargs")
    parts.object("transformer_kwargs")
    parts.integer("token_embedding_size", low=1, high=_WIDEST)
    parts.integer("max_horizon", low=1, high=_WIDEST)
    readouts = parts.object("readouts")
    for name in readouts.content:
        readouts.integer(name, low=1, high=_WIDEST)
    _check_notes(config)
    return cast(OctoConfig, {**config.content, "model": upgrade_spec(model)})


def _check_notes(config: Fields) -> None:
    """What xp noted in `xp`: which camera feeds which slot, at which size, whose statistics."""
    notes = config.object("xp", Fields({}, config.source))
    notes.text("dataset", None)
    cameras = notes.object("cameras", Fields({}, config.source))
    for _, entry in cameras.objects():
        entry.text("camera", None)
        entry.integers("size", count=2, low=1, high=_WIDEST)


def _check_sizes(sidecar: OctoSidecar, weights: Checkpoint, source: Path) -> None:
    """Refuse a network of more layers than its weights have arrays, or of numbers that none of their axes has."""
    widest = max([4096, *(axis for leaf in weights.leaves.values() for axis in leaf.shape)])
    layers = sidecar.config["model"]["transformer_kwargs"].get("num_layers")
    waiting: list[tuple[str, object]] = [("model", sidecar.config["model"])]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, dict | list):
            children = node.items() if isinstance(node, dict) else ((name, child) for child in node)
            waiting += [(str(key), child) for key, child in children]
        elif isinstance(node, int) and abs(node) > widest:
            raise UserError(
                f"{source}: {printable(name)} is {node}: expected at most {widest:,}, since no axis of the weights "
                "beside it is longer. Give the config.json that was saved with them."
            )
    if not isinstance(layers, int) or layers > len(weights.leaves):
        raise UserError(
            f"{source}: num_layers is {shown(layers)}: expected at most {len(weights.leaves)}, the number of arrays in "
            "the weights beside it. Give the config.json that was saved with them."
        )


def _read_example(path: Path) -> Tree[np.ndarray]:
    example = read_tree(path, "an Octo")
    if not isinstance(example, Mapping) or not isinstance(example.get("observation"), Mapping):
        raise UserError(
            f"{path} holds {shown(example)}: expected a batch with an entry 'observation'. Give the example batch that "
            "was saved with the model."
        )
    return _upgrade_example(cast(Tree[np.ndarray], example))  # each leaf is checked where it is read


def _upgrade_example(example: Tree[np.ndarray]) -> Tree[np.ndarray]:
    """An example batch of any release with today's names."""
    upgraded = dict(example)
    if "tasks" in upgraded:
        upgraded["task"] = upgraded.pop("tasks")
    observation = dict(branch(upgraded, "observation"))
    if "pad_mask" in observation:
        observation["timestep_pad_mask"] = observation.pop("pad_mask")
    upgraded["observation"] = observation
    return upgraded


def write_folder(path: Path, sidecar: OctoSidecar, weights: Mapping[str, np.ndarray]) -> None:
    """Write an Octo folder whole or not at all, replacing what stands at `path`; `weights` flat by path."""
    with atomic.folder(path) as target:
        default = target / str(sidecar.step) / "default"
        default.mkdir(parents=True)
        write_tree(default / "checkpoint", unflatten(weights))
        (default / "_METADATA").write_text(json.dumps(orbax_metadata(list(weights))), encoding="utf-8")
        write_tree(target / "example_batch.msgpack", sidecar.example)
        _write_json(target / "config.json", sidecar.config)
        _write_json(target / "dataset_statistics.json", sidecar.statistics)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(atomic.plain(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")
