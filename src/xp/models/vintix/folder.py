"""The folder of a Vintix model: config.json, metadata.json and model.pth, as the original's `save_model` writes them.

xp adds xp_vintix.json: by whose code the parts of a token are put together, the rate, and the widths of the dataset.
The original reads the other three alone, so its code loads what xp saves. Imports no framework.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xp import atomic
from xp.errors import UserError
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import MissingError, member
from xp.foreign.statistics import checked_statistics
from xp.foreign.text import printable
from xp.json_types import JSON, JSONObject
from xp.models.vintix.options import FORK, ORIGINS, UPSTREAM, VintixOptions, options_of_config
from xp.models.vintix.tasks import Moments, Task, Tasks

CONFIG, METADATA, WEIGHTS, OWN = "config.json", "metadata.json", "model.pth", "xp_vintix.json"
_WHAT = {CONFIG: "a Vintix model's configuration", METADATA: "a Vintix model's tasks", OWN: "xp's notes on the model"}
_STATISTICS = ("obs_mean", "obs_std", "acs_mean", "acs_std")
_ENTRY = ("observation_shape", "action_dim", "action_type", "group_name", "reward_scale", *_STATISTICS)
_DEFAULT_GROUP = "quadruped_locomotion"
"""What the fork takes where an entry has no group_name."""


@dataclass(frozen=True, eq=False)
class Description:
    """All that a model is but its weights."""

    options: VintixOptions
    tasks: Tasks
    origin: str
    """Whose order of a token's parts it has, a key of `ORIGINS`."""
    fps: float | None
    """Steps per second; None where the folder does not say."""
    state_dim: int
    action_dim: int
    """Widths of observations and actions as the model is asked: those of the dataset that it was trained on."""
    config: JSONObject
    """The other fields of config.json; they are kept."""

    def with_origin(self, origin: str) -> "Description":
        """The same, of another origin."""
        return replace(self, origin=origin)

    def write(self, folder: Path) -> None:
        """Write the three JSON files."""
        atomic.write_json(folder / CONFIG, {**self.config, **self.options.config()})
        atomic.write_json(folder / METADATA, {task.name: task.metadata() for task in self.tasks.all})
        own = {"origin": self.origin, "fps": self.fps, "state_dim": self.state_dim, "action_dim": self.action_dim}
        atomic.write_json(folder / OWN, own)


def is_vintix(folder: Path) -> bool:
    """Whether model.pth lies beside a configuration that has the names of Vintix's sizes, and its tasks.

    Raises:
        UserError: config.json is damaged.
    """
    if not all((folder / name).exists() for name in (WEIGHTS, CONFIG, METADATA)):
        return False
    config = _fields(folder, CONFIG)
    return "transformer_depth" in config and "reward_emb_dim" in config


def read_description(folder: Path, origin: str | None = None) -> Description:
    """What the model in a folder is but its weights.

    Args:
        folder: the folder.
        origin: what the user says of a folder that does not tell.

    Raises:
        UserError: a file is missing or damaged, a field is not what it should be, or nobody says the origin.
    """
    config = _fields(folder, CONFIG)
    options = options_of_config(config)
    own = _own(folder)
    tasks = _tasks(folder)
    known = options.config()
    widest = max(task.state_dim for task in tasks.all), max(task.action_dim for task in tasks.all)
    return Description(
        options=options,
        tasks=tasks,
        origin=_origin(folder, own, origin),
        fps=None if own is None else own.number("fps", None, low=1e-3, high=1e6),
        state_dim=widest[0] if own is None else own.integer("state_dim", widest[0], low=0, high=1 << 20),
        action_dim=widest[1] if own is None else own.integer("action_dim", widest[1], low=1, high=1 << 20),
        config={key: value for key, value in config.content.items() if key not in known},
    )


def trained_fps(folder: Path) -> float | None:
    """Steps per second, where xp noted them."""
    own = _own(folder)
    return None if own is None else own.number("fps", None, low=1e-3, high=1e6)


def _origin(folder: Path, own: Fields | None, given: str | None) -> str:
    said = None if own is None else own.text("origin", among=ORIGINS)
    if said is not None and given is not None and said != given:
        raise UserError(
            f"origin={given}: {folder / OWN} says that this model is of {said}, and with the other order of a token's "
            f"parts its actions would be wrong. Leave origin out, or give origin={said}"
        )
    origin = said or given
    if origin is None:
        raise UserError(
            f"{folder} is a Vintix model, and nothing in it says by whose code it was trained: {UPSTREAM} "
            f"(github.com/dunnolab/vintix, a token is {', '.join(ORIGINS[UPSTREAM])}) or {FORK} (its quadruped fork, "
            f"{', '.join(ORIGINS[FORK])}). Weights of one load in the other and act wrongly. Say which: "
            f"load_policy(path, origin='{UPSTREAM}') in Python, model.pretrained_origin={UPSTREAM} in training, or for "
            f'every command a file {folder / OWN} with {{"origin": "{UPSTREAM}"}}'
        )
    return origin


def _own(folder: Path) -> Fields | None:
    try:
        return _fields(folder, OWN)
    except MissingError:
        return None


def _fields(folder: Path, name: str) -> Fields:
    return read_fields(member(folder, name, _WHAT[name]), _WHAT[name])


def _tasks(folder: Path) -> Tasks:
    metadata = _fields(folder, METADATA)
    found = [_task(name, entry) for name, entry in metadata.objects()]
    if not found:
        raise UserError(f"{folder / METADATA} names no task: expected at least one. Copy the folder again.")
    first: dict[str, Task] = {}
    for task in found:
        there = first.setdefault(task.group, task)
        if (there.state_dim, there.action_dim) != (task.state_dim, task.action_dim):
            raise UserError(
                f"{folder / METADATA}: the tasks '{printable(there.name)}' and '{printable(task.name)}' are of one "
                f"group, '{printable(task.group)}', and have other widths: expected equal ones. Copy the folder again."
            )
    return Tasks(tuple(found))


def _task(name: str, entry: Fields) -> Task:
    shape = entry.object("observation_shape")
    shape.refuse_others(["proprio"])
    state_dim = shape.integers("proprio", count=1, low=0, high=1 << 16)[0]
    action_dim = entry.integer("action_dim", low=1, high=1 << 16)
    entry.text("action_type", "continuous", among=["continuous"])
    group = entry.text("group_name", _DEFAULT_GROUP, most=400)
    if "." in group or not group:
        raise entry.refusal("group_name", "a name without a dot, since weights are named by it")
    return Task(
        name=name,
        group=group,
        state_dim=state_dim,
        action_dim=action_dim,
        reward_scale=entry.number("reward_scale", 1.0, low=-1e9, high=1e9),
        observation=_moments(entry, "obs", state_dim),
        action=_moments(entry, "acs", action_dim),
        more={key: value for key, value in entry.content.items() if key not in _ENTRY},
    )


def _moments(entry: Fields, what: str, width: int) -> Moments:
    given: Mapping[str, JSON] = {kind: entry.content.get(f"{what}_{kind}") for kind in ("mean", "std")}
    found = checked_statistics(given, entry.place(what))
    if found["mean"].shape != (width,):
        raise entry.refusal(f"{what}_mean", f"{width} numbers, one for each dimension")
    return Moments(found["mean"].astype(np.float32), found["std"].astype(np.float32))
