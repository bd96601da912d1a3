"""The section `data.mix`: several datasets to train on at once, as typed. Imports nothing heavy."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from xp.config.dataset_facts import reading_section
from xp.config.hub_keys import MIX, by_repo_id
from xp.config.unknown_keys import shown
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON, JSONObject

KEY = MIX
RESAMPLINGS = ("every", "sum")
"""How a dataset's actions come to a lower rate: every n-th of them (targets), or n in a row added up (movements)."""
OF_EACH = ("tasks", "exclude_tasks", "split")
"""Keys of `data` that a mixture has for each of its datasets instead."""
_OF_A_HUB = ("repo_id", "revision")
"""Keys that say what `root` says as `hf://ORG/NAME@REVISION`."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EXAMPLE = "'data.mix={a: {root: FOLDER, weight: 0.7}, b: {root: FOLDER, weight: 0.3}}'"


@dataclass(frozen=True, kw_only=True)
class MemberOptions:
    """A dataset of a mixture (a member), as its entry of `data.mix` says. conf/data/mix.yaml explains the keys."""

    name: str
    root: str
    """A folder, or an id of a hub (of which a run gets a folder)."""
    weight: float = 1.0
    cameras: Mapping[str, str | None] | None = None
    tasks: Sequence[str | int] | None = None
    exclude_tasks: Sequence[str | int] | None = None
    val_fraction: float | None = None
    split: str | None = None
    resample: str | None = None
    keep: Sequence[str] = ()
    read: Mapping[str, JSON] | None = None
    task_weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    episode_weights: str | Mapping[int, float] | None = None

    @property
    def key(self) -> str:
        """Where it stands, for messages."""
        return f"{KEY}.{self.name}"


def read_mix(section: JSON) -> tuple[MemberOptions, ...]:
    """The members that are drawn from, by name: their order in the section changes nothing, nor does one of weight 0.

    Raises:
        UserError: an unknown key, a value that does not fit, or weights that say nothing.
    """
    if not isinstance(section, Mapping) or not section:
        raise UserError(f"{KEY}={shown(section)}: expected datasets by name. Type for instance {_EXAMPLE}")
    members = [_member(str(name), entry, list(section)) for name, entry in section.items()]
    drawn = sorted((each for each in members if each.weight > 0), key=lambda each: each.name)
    if not drawn:
        raise UserError(
            f"All weights of {KEY} are 0 ({join_names(each.name for each in members)}), so nothing would be drawn. "
            f"Give at least one a weight above 0: {members[0].key}.weight=1"
        )
    return tuple(drawn)


def without_weightless(section: JSON) -> JSON:
    """The section without what nothing is drawn from, nor keys of a hub that say nothing: what a result depends on."""
    if not isinstance(section, Mapping):
        return section
    return {
        name: _without_unused(entry) if isinstance(entry, Mapping) else entry
        for name, entry in section.items()
        if not (isinstance(entry, Mapping) and _number(entry.get("weight", 1)) == 0)
    }


def _without_unused(entry: JSONObject) -> JSONObject:
    return {key: value for key, value in entry.items() if value is not None or key not in _OF_A_HUB}


def mixed_cameras(members: Sequence[MemberOptions], own: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Names of the mixture's cameras: those of the maps, and a dataset's own where it has no map, in order.

    Args:
        members: the datasets of the mixture.
        own: {member: names of the cameras that its dataset has}.

    Raises:
        UserError: a map that names a camera which the dataset does not have, or leaves dark one that nobody has.
    """
    found: dict[str, None] = {}
    for member in members:
        found.update(dict.fromkeys(fed_cameras(member, own[member.name])))
    for member in members:
        for name in member.cameras or ():
            if name not in found:
                raise UserError(
                    f"{member.key}.cameras={shown(member.cameras)}: no dataset of the mixture has a camera "
                    f"'{name}'{did_you_mean(name, found)}; their cameras are {join_names(found)}. Leave it out, or "
                    f"give another dataset's map that name."
                )
    return tuple(found)


def fed_cameras(member: MemberOptions, own: Sequence[str]) -> dict[str, str]:
    """{camera of the mixture: the dataset's camera that feeds it}, without those that it leaves dark.

    Raises:
        UserError: the map names a camera that the dataset does not have.
    """
    if member.cameras is None:
        return {camera: camera for camera in own}
    for name, camera in member.cameras.items():
        if camera is not None and camera not in own:
            raise UserError(
                f"{member.key}.cameras={shown(member.cameras)}: the dataset {member.root} has no camera '{camera}'"
                f"{did_you_mean(camera, own)}; it has {join_names(own)}. Type {member.key}.cameras.{name}="
                f"{next(iter(own), 'null')}, or null for a camera that it does not have."
            )
    return {name: camera for name, camera in member.cameras.items() if camera is not None}


def _member(name: str, entry: JSON, names: Sequence[str]) -> MemberOptions:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{KEY}: {name!r} is no name for a dataset: letters, digits, '_', '-' and '.', at most 64, the first a "
            f"letter or digit. Type for instance {_EXAMPLE}"
        )
    if not isinstance(entry, Mapping):
        raise UserError(
            f"{KEY}.{name}={shown(entry)}: expected the keys of a dataset. Type for instance {KEY}.{name}.root=FOLDER"
        )
    allowed = [*(each.name for each in fields(MemberOptions) if each.name != "name"), *_OF_A_HUB]
    for key in entry:
        if key not in allowed:
            raise UserError(
                f"{KEY}.{name}.{key}: there is no such key{did_you_mean(str(key), allowed)}. A dataset of a mixture "
                f"has {join_names(allowed)}."
            )
    return MemberOptions(name=name, root=_root(name, entry, names), **_values(f"{KEY}.{name}", entry))


def _root(name: str, entry: JSONObject, names: Sequence[str]) -> str:
    """The folder or id that `root`, or `repo_id` with `revision`, names."""
    key, root = f"{KEY}.{name}", entry.get("root")
    repo_id, revision = entry.get("repo_id"), entry.get("revision")
    if repo_id is None and revision is not None:
        raise UserError(
            f"{key}.revision={shown(revision)} goes with {key}.repo_id. Type {key}.repo_id=ORG/NAME, or give both at "
            f"once: {key}.root=hf://ORG/NAME@REVISION"
        )
    if repo_id is not None and root is not None:
        raise UserError(
            f"{key}.root={shown(root)} and {key}.repo_id={shown(repo_id)} both name the dataset. Leave one of them out."
        )
    if repo_id is not None:
        return str(by_repo_id(key, str(repo_id), revision).address)
    if not isinstance(root, str) or not root:
        others = [other for other in names if other != name]
        raise UserError(
            f"{key}.root={shown(root)}: which folder?{did_you_mean(name, others)} The datasets of the mixture are "
            f"{join_names(names)}. Type {key}.root=FOLDER, or {key}.root=hf://ORG/NAME of a dataset on the hub"
        )
    return root


def _values(key: str, entry: JSONObject) -> dict[str, Any]:
    """The values of an entry but the dataset itself, each checked."""
    found: dict[str, Any] = {}
    if "weight" in entry:
        found["weight"] = _weight(f"{key}.weight", entry["weight"])
    if entry.get("cameras") is not None:
        found["cameras"] = _camera_map(f"{key}.cameras", entry["cameras"])
    for name in ("tasks", "exclude_tasks"):
        if entry.get(name) is not None:
            found[name] = _list(f"{key}.{name}", entry[name])
    if entry.get("val_fraction") is not None:
        found["val_fraction"] = _number(entry["val_fraction"])
        if not 0 <= found["val_fraction"] <= 0.9:
            raise UserError(f"{key}.val_fraction={shown(entry['val_fraction'])}: must be a number from 0 to 0.9.")
    if entry.get("split") is not None:
        found["split"] = str(entry["split"])
    if entry.get("resample") is not None:
        word = entry["resample"]
        if word not in RESAMPLINGS:
            raise UserError(
                f"{key}.resample={shown(word)}: allowed are {join_names(RESAMPLINGS)}"
                f"{did_you_mean(str(word), RESAMPLINGS)}: every n-th action, or n actions added up."
            )
        found["resample"] = str(word)
    if entry.get("keep") is not None:
        found["keep"] = tuple(map(str, _list(f"{key}.keep", entry["keep"])))
    if entry.get("read") is not None:
        found["read"] = reading_section(entry["read"], f"{key}.read")
    if entry.get("task_weights") is not None:
        found["task_weights"] = _weights(f"{key}.task_weights", entry["task_weights"], str)
    if entry.get("episode_weights") is not None:
        given = entry["episode_weights"]
        found["episode_weights"] = (
            given if isinstance(given, str) else _weights(f"{key}.episode_weights", given, _episode)
        )
    return found


def _weight(key: str, given: JSON) -> float:
    weight = _number(given)
    if not math.isfinite(weight) or weight < 0:
        raise UserError(
            f"{key}={shown(given)}: a weight is a finite number of 0 or more; only their ratio counts, and 0 leaves "
            f"out. Type for instance {key}=0.5"
        )
    return weight


def _weights[Name](key: str, given: JSON, name: Callable[[object], Name]) -> dict[Name, float]:
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"{key}={shown(given)}: expected weights by name, for instance '{key}={{NAME: 0.5}}'")
    return {name(each): _weight(f"{key}.{each}", value) for each, value in given.items()}


def _episode(given: object) -> int:
    text = str(given)
    if not text.isdecimal():
        raise UserError(f"{KEY}: episode_weights names the episode {shown(given)}: expected a number, counted from 0.")
    return int(text)


def _camera_map(key: str, given: JSON) -> dict[str, str | None]:
    if not isinstance(given, Mapping) or not all(isinstance(camera, str | None) for camera in given.values()):
        raise UserError(
            f"{key}={shown(given)}: give {{camera of the mixture: camera of this dataset}}, for instance "
            f"'{key}={{front: top, wrist: null}}' (null: it has none), or null where the names are the same."
        )
    return {str(name): None if camera is None else str(camera) for name, camera in given.items()}


def _list(key: str, given: JSON) -> list:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UserError(f"{key}={shown(given)}: expected a list. Type '{key}=[{given}]'")
    return list(given)


def _number(value: object) -> float:
    """A number as a float; NaN for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
