"""What a folder of Vintix trajectories looks like: its files and the fields of its description. Imports nothing heavy.

A task's folder holds `*.h5`, each file the history of one environment, and a JSON file: `<folder>.json`, else the first
`trajectories_env_*.json` (as the quadruped fork has it), else the only one. A dataset is such a folder, or a folder of
such folders.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xp.errors import UserError, join_names
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import inside, member
from xp.foreign.text import printable

WHAT, DESCRIPTION = "a history of Vintix trajectories", "the description of Vintix trajectories"
DEFAULT_FPS = 50.0
"""Steps per second of a description without `fps`: those of the quadrupeds of the format's self-improving fork."""
MOST_WIDTH = 1 << 16
_MOST_ENTRIES = 10_000
_LOOKED_AT = 4
"""Folders in a folder that tell whether it is a dataset of several tasks."""
_SUFFIX = ".h5"


@dataclass(frozen=True)
class TaskFolder:
    """One task's folder and what its description says."""

    folder: Path
    """The task's folder, inside the dataset's root or the root itself."""
    description: Path
    task: str
    state_dim: int
    action_dim: int
    parameter_group: str
    """Whose encoders and decoders a model with modules per group uses (`group_name`; by default the task's own)."""
    reward_scale: float
    fps: float
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]

    @property
    def layout(self) -> tuple[int, int, str, float, float]:
        """What two folders of one task must agree on."""
        return self.state_dim, self.action_dim, self.parameter_group, self.reward_scale, self.fps

    def histories(self) -> list[Path]:
        """The HDF5 files, in the order of their names."""
        return [member(self.folder, name, WHAT) for name in _names(self.folder, _SUFFIX)]


def looks_like(root: str | Path) -> bool:
    """Whether a folder, or one of the first folders in it, holds HDF5 files. Never raises."""
    try:
        place = Path(root).expanduser()
    except RuntimeError:  # no home
        return False
    return bool(_names(place, _SUFFIX)) or any(_names(inner, _SUFFIX) for inner in _folders(place)[:_LOOKED_AT])


def task_folders(root: Path) -> list[TaskFolder]:
    """The tasks of a dataset, in the order of their folders' names.

    Raises:
        UserError: a description that is missing or damaged, a link that leads out of the root, or two folders of one
            task that do not agree.
    """
    inner = [place for place in _folders(root) if _names(place, _SUFFIX)]
    places = [root] if _names(root, _SUFFIX) else [inside(root, place.name, "a task's folder") for place in inner]
    found = [_read(place) for place in places]
    first = {each.task: each for each in reversed(found)}
    for each in found:
        if each.layout != first[each.task].layout:
            raise UserError(
                f"{first[each.task].folder} and {each.folder} are both of the task '{printable(each.task)}', and their "
                "descriptions do not agree on widths, group_name, reward_scale or fps. Give one of them another "
                f"task_name in {each.description.name}."
            )
    return found


def _read(folder: Path) -> TaskFolder:
    path = _description(folder)
    fields = read_fields(path, DESCRIPTION)
    shape = fields.object("observation_shape")
    shape.refuse_others(["proprio"])
    state_dim = shape.integers("proprio", count=1, low=0, high=MOST_WIDTH)[0]
    action_dim = fields.integer("action_dim", low=1, high=MOST_WIDTH)
    fields.text("action_type", "continuous", among=["continuous"])
    task = fields.text("task_name", most=400)
    return TaskFolder(
        folder=folder,
        description=path,
        task=task,
        state_dim=state_dim,
        action_dim=action_dim,
        parameter_group=fields.text("group_name", task, most=400),
        reward_scale=fields.number("reward_scale", 1.0, low=-1e9, high=1e9),
        fps=fields.number("fps", DEFAULT_FPS, low=1e-3, high=1e6),
        state_names=_given_names(fields, "state_names", state_dim),
        action_names=_given_names(fields, "action_names", action_dim),
    )


def _given_names(fields: Fields, key: str, width: int) -> tuple[str, ...]:
    return tuple(fields.texts(key, [], count=width)) if key in fields else ()


def _description(folder: Path) -> Path:
    own = f"{folder.resolve().name}.json"
    names = _names(folder, ".json")
    of_envs = [name for name in names if re.fullmatch(r"trajectories_env_.*\.json", name)]
    chosen = [own] if own in names else of_envs[:1] or names
    if len(chosen) != 1:
        there = join_names(names[:8]) if names else "no JSON file"
        raise UserError(
            f"{printable(folder)} holds Vintix trajectories (.h5) and {there}: expected their description, {own}, with "
            "task_name, observation_shape, action_dim and action_type. Copy it from where the files came from, or "
            "rename it."
        )
    return member(folder, chosen[0], DESCRIPTION)


def _names(folder: Path, suffix: str) -> Sequence[str]:
    """Names of a folder's entries with that ending, sorted; none of what cannot be listed."""
    return sorted(entry.name for entry in _listed(folder) if entry.name.endswith(suffix))


def _folders(root: Path) -> list[Path]:
    return [root / entry.name for entry in sorted(_listed(root), key=lambda entry: entry.name) if entry.is_dir()]


def _listed(folder: Path) -> "list[os.DirEntry[str]]":
    """Entries that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            listed = [entry for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False)]
    except (OSError, ValueError):
        return []
    return [entry for entry in listed if not entry.name.startswith(".")]
