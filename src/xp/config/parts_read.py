"""Which part of a dataset a task reads: a training the cameras that its model looks through and the episodes that are
chosen, a measurement the episodes that may be held out.

Told from the configuration and from the small files that describe the dataset, before any frame is there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from xp.checkpoints.reference import CheckpointRef, is_file
from xp.checkpoints.run_layout import SPLIT, SPLITS
from xp.config.dataset_facts import PartlyReadFormat, find_format
from xp.config.hub_checks import described
from xp.config.hub_keys import MIX, HubValue, described_folder
from xp.config.mixture import MemberOptions, fed_cameras, mixed_cameras, read_mix
from xp.config.model_families import GROUP
from xp.errors import UserError
from xp.foreign.json_file import read_fields
from xp.hub.address import DATASET, HubAddress, is_address
from xp.hub.part import Measured, Part
from xp.json_types import JSON, JSONObject, section
from xp.plugins import load_plugin

_MEASURED_BY = {"predict": ("predict", "data_root"), "eval": ("eval", "data_root"), "dump": ("data", "root")}
"""{task: the key that names a dataset of which held-out episodes are read}; in `eval` a replay alone has it."""
_LIMITED_BY = {"predict": "num_trajectories", "eval": "episodes"}
"""{task: the key of its section that says how many of these}."""
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
    """The address of a dataset on a hub with the part of it that the task reads; any other as it is.

    Args:
        value: what a key of the configuration names.
        config: the configuration, plain and resolved, with ids where they were typed.

    Raises:
        UserError: what the model or the mixture says of cameras does not fit the dataset.
    """
    if value.address.kind != DATASET or value.path[-1] not in ("root", "data_root"):
        return value.address
    return replace(value.address, part=part_read(config, value.path, described_folder(value.address)))


def part_read(config: JSONObject, path: Sequence[str | int], root: str | Path) -> Part:
    """Which part of the dataset in `root` the task reads.

    Args:
        config: the configuration, plain and resolved.
        path: of the key that names the dataset: ("data", "root"), ("predict", "data_root"), or that of one of a
            mixture.
        root: a folder with at least the files that describe the dataset.

    Raises:
        UserError: as `only_what_is_read`.
    """
    found, task = find_format(root), section(config, "task").get("name")
    if not isinstance(found, PartlyReadFormat):
        return Part()
    if task != "train":
        return _measured(config, str(task), tuple(path))
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


def _measured(config: JSONObject, task: str, path: tuple[str | int, ...]) -> Part:
    """The part that a policy is measured on, or that is dumped to measure policies on; the whole where it is not known.

    That is where the policy, or a manifest, is not here yet, and what the policy's run held out with it.
    """
    if path != _MEASURED_BY.get(task):
        return Part()
    data, own = section(config, "data"), section(config, task)
    if own.get("indices_episode") is not None:
        named = tuple(each for each in _listed(own["indices_episode"]) or () if isinstance(each, int))
        return Part(measured=Measured(lists=(named,)))
    if own.get("part") == "train":
        return Part()
    limit = own.get(_LIMITED_BY.get(task, ""))
    most = limit if isinstance(limit, int) else None
    if data.get("split") is not None:
        manifest = _manifest(data["split"])
        return Part() if manifest is None else Part(measured=Measured((_held_out(manifest),), limit=most))
    checkpoint, fraction, seed = own.get("checkpoint"), data.get("val_fraction"), data.get("split_seed")
    if not isinstance(fraction, int | float) or not isinstance(seed, int):
        return Part()
    lists = () if checkpoint is None else _held_out_by_run(str(checkpoint), own.get("unnorm_key"))
    if lists is None:
        return Part()
    chosen = _listed(data.get("tasks")), _listed(data.get("exclude_tasks"))
    return Part(None, *chosen, measured=Measured(lists, float(fraction), seed, most))


def _held_out(manifest: str | Path) -> tuple[int, ...]:
    return tuple(read_fields(manifest, "a split manifest", most=1 << 27).integers("val", most=1 << 24))


def _held_out_by_run(checkpoint: str, unnorm_key: JSON) -> tuple[tuple[int, ...], ...] | None:
    """What the training run of a policy held out, if its folder says; None where there is no such folder yet."""
    folder = CheckpointRef.parse(checkpoint).path
    if is_address(checkpoint) or not folder.is_dir():
        return None
    places = (folder / SPLIT, folder / SPLITS / f"{unnorm_key}.json")
    return tuple(_held_out(place) for place in places if is_file(place))


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
