"""LeRobot policies of several datasets: what is put together for training, and for one of the datasets."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from xp.errors import UserError
from xp.models.family import BuildRequest
from xp.models.lerobot.cameras import image_key
from xp.models.lerobot.folder import Notes
from xp.models.lerobot.members import STATISTICS, Members, members_from, read_statistics
from xp.models.lerobot.policy import Assembly
from xp.models.lerobot.processors import use_statistics
from xp.models.lerobot.sidecar import Sidecar
from xp.models.policy import PolicySpec

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig


def of_mixture(assembly: Assembly, config: "PreTrainedConfig", request: BuildRequest) -> Assembly:
    """The assembly of a policy that learns from several datasets."""
    data, statistics = request.data, request.statistics
    assert "members" in statistics, "a mixture's statistics hold those of each dataset"
    by_name = {each.name: statistics["members"][each.name] for each in data.members}
    entries = {name: {"action": each["action"], "proprio": each["proprio"]} for name, each in by_name.items()}
    cameras = {each.name: dict(each.cameras) for each in data.members}
    members = members_from(entries, cameras, config, (data.action_dim, data.state_dim))
    return replace(assembly, members=members, notes={**assembly.notes, "members": cameras})


def saved_members(sidecar: Sidecar, config: "PreTrainedConfig", spec: PolicySpec) -> Members:
    """The datasets that a saved policy learned from.

    Raises:
        UserError: files of the folder name other ones.
    """
    statistics = read_statistics(sidecar.folder)
    if set(statistics) != set(sidecar.members):
        raise UserError(
            f"{sidecar.folder}: {STATISTICS} and xp.json name other datasets. Copy the folder again from where it was "
            "trained."
        )
    ordered = {name: statistics[name] for name in sidecar.members}
    return members_from(ordered, sidecar.members, config, (spec.action_dim, spec.state_dim))


def of_member(assembly: Assembly, members: Members, name: str, camera_map: Mapping[str, str | None]) -> Assembly:
    """The policy of one dataset of a mixture: its statistics in the processors, its cameras, its widths."""
    use_statistics(assembly.processors, members.features_of(name))
    place, own = members.names.index(name), members.cameras[name]
    asked = {image_key(each) for each in camera_map}
    images = {
        key: (camera if key in asked else own.get(camera, ""), height, width)
        for key, (camera, height, width) in assembly.images.items()
    }
    spec = replace(
        assembly.spec,
        cameras={camera: (height, width, 3) for camera, height, width in images.values() if camera},
    )
    notes: Notes = {
        "cameras": {key: camera for key, (camera, _, _) in images.items()},
        "fps": assembly.notes["fps"],
        "name": assembly.notes["name"],
    }
    widths = (members.action.widths[place], members.state.widths[place])
    return narrowed(replace(assembly, images=images, spec=spec, notes=notes), widths)


def narrowed(assembly: Assembly, widths: tuple[int, int]) -> Assembly:
    """The policy with the widths (action, state) of the dataset that it is used on, its network's being wider."""
    spec = replace(assembly.spec, action_dim=widths[0], state_dim=widths[1])
    notes: Notes = {**assembly.notes, "widths": list(widths)}
    return replace(assembly, spec=spec, notes=notes, state_width=assembly.spec.state_dim)
