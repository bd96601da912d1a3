"""Which part of a dataset a training reads: the cameras that its model looks through and the episodes that are chosen.

Told from the configuration and from the small files that describe the dataset, before any frame is there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from xp.checkpoints.reference import is_file
from xp.config.dataset_facts import PartlyReadFormat, find_format
from xp.config.hub_checks import described
from xp.config.hub_keys import MIX, HubValue, described_folder
from xp.config.mixture import MemberOptions, fed_cameras, mixed_cameras, read_mix
from xp.config.model_families import GROUP
from xp.errors import UserError
from xp.hub.address import DATASET, HubAddress
from xp.hub.part import Part
from xp.json_types import JSON, JSONObject, section
from xp.plugins import load_plugin

Sizes = Mapping[str, tuple[int, int, int]]
"""{camera: (height, width, 3)}."""


@runtime_checkable
class LooksThrough(Protocol):
    """What is asked of a model family here (`xp.models.family.Family`)."""

    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> Mapping[str, tuple[int, int]]:
        """The size at which a model wants each of the dataset's cameras that it uses."""
        ...


def only_what_is_read(value: HubValue, config: JSONObject) -> HubAddress:
    """The address of a dataset on a hub with the part of it that a training reads; any other as it is.

    Args:
        value: what a key of the configuration names.
        config: the configuration, plain and resolved, with ids where they were typed.

    Raises:
        UserError: what the model or the mixture says of cameras does not fit the dataset.
    """
    trained_on = section(config, "task").get("name") == "train" and value.path[-1] == "root"
    if value.address.kind != DATASET or not trained_on:
        return value.address
    return replace(value.address, part=part_read(config, value.path, described_folder(value.address)))


def part_read(config: JSONObject, path: Sequence[str | int], root: str | Path) -> Part:
    """Which part of the dataset in `root` a training reads.

    Args:
        config: the configuration, plain and resolved.
        path: of the key that names the dataset: ("data", "root"), or that of one of a mixture.
        root: a folder with at least the files that describe the dataset.

    Raises:
        UserError: as `only_what_is_read`.
    """
    found = find_format(root)
    if not isinstance(found, PartlyReadFormat):
        return Part()
    if ".".join(map(str, path[:2])) == MIX:
        member = next(each for each in read_mix(section(config, "data").get("mix")) if each.name == path[2])
        chosen = {"tasks": member.tasks, "exclude_tasks": member.exclude_tasks, "split": member.split}
        cameras = _of_member(config, member)
    else:
        chosen, own = section(config, "data"), found.camera_sizes(root)
        cameras = _looked_through(config, own)
    whole = cameras is None or set(cameras) >= set(found.camera_sizes(root))
    return Part(
        None if whole else tuple(sorted(cameras or ())),
        _listed(chosen.get("tasks")),
        _listed(chosen.get("exclude_tasks")),
        _manifest(chosen.get("split")),
    )


def _of_member(config: JSONObject, member: MemberOptions) -> Collection[str] | None:
    """Cameras of a dataset that feed one of the mixture's that the model looks through."""
    members = read_mix(section(config, "data").get("mix"))
    sizes: dict[str, Sizes] = {}
    for each in members:
        root = described(f"{each.key}.root", each.root)
        found = find_format(root)
        if not isinstance(found, PartlyReadFormat):
            return None  # what other formats' cameras are called is known when they are opened
        sizes[each.name] = found.camera_sizes(root)
    names = mixed_cameras(members, {name: tuple(own) for name, own in sizes.items()})
    fed = {each.name: fed_cameras(each, tuple(sizes[each.name])) for each in members}
    mixed = {
        name: next(sizes[each.name][fed[each.name][name]] for each in members if name in fed[each.name])
        for name in names
    }
    wanted = _looked_through(config, mixed)
    return None if wanted is None else {camera for name, camera in fed[member.name].items() if name in wanted}


def _looked_through(config: JSONObject, cameras: Sizes) -> Collection[str] | None:
    model = section(config, "model")
    if not model.get("family"):
        return None
    family = load_plugin(GROUP, str(model["family"]), "model.family", LooksThrough)
    return family.camera_sizes(model, cameras).keys()


def _listed(given: JSON | Sequence[str | int]) -> tuple[str | int, ...] | None:
    if given is None:
        return None
    entries = [given] if isinstance(given, str | int) else given
    if not isinstance(entries, Sequence):
        raise UserError(f"data.tasks={given}: expected a list of tasks.")
    return tuple(each for each in entries if isinstance(each, str | int))


def _manifest(given: object) -> str | None:
    """A manifest that is here already; one that another job writes, or on a hub, chooses nothing beforehand."""
    return given if isinstance(given, str) and is_file(given) else None
