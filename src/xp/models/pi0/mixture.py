"""Several datasets in one pi0: an asset (`assets/DATASET/norm_stats.json`) for each, as openpi keeps statistics."""

from collections.abc import Mapping
from dataclasses import replace

from xp.errors import UserError, join_names
from xp.models.pi0.io.norm_stats import NormStats, stats_of
from xp.models.pi0.io.notes import Notes
from xp.models.policy import DataSpec, Statistics


def member_cameras(data: DataSpec, cameras: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """{dataset: {image input: its own camera}}, by `member_index`; nothing for one dataset that is no mixture.

    An input whose camera a dataset does not have is left out: it is masked there.

    Args:
        data: what the mixture offers.
        cameras: {image input: the camera of the mixture that feeds it}.

    Raises:
        UserError: a dataset without states, which a pi0 reads and cannot mask; or without any of the cameras.
    """
    for each in data.members:
        if not each.state_dim:
            raise UserError(
                f"data.mix.{each.name}: the dataset has no observation.state, and a pi0 reads the robot's state, which "
                f"it has no mask for. Leave it out (data.mix.{each.name}.weight=0), or take a model that masks states: "
                "model=octo_tiny."
            )
        if not any(camera in each.cameras for camera in cameras.values()):
            raise UserError(
                f"data.mix.{each.name} has none of the cameras that the model looks through "
                f"({join_names(cameras.values())}). Say which of its cameras one of them is: "
                f"data.mix.{each.name}.cameras.{next(iter(cameras.values()))}=CAMERA"
            )
    return {
        each.name: {slot: each.cameras[camera] for slot, camera in cameras.items() if camera in each.cameras}
        for each in data.members
    }


def member_assets(data: DataSpec, statistics: Statistics) -> dict[str, NormStats]:
    """{dataset of a mixture: its statistics}, by `member_index`."""
    own = statistics.get("members")
    assert own is not None, "a mixture's statistics hold those of each dataset"
    return {
        each.name: NormStats(
            state=stats_of(own[each.name]["proprio"]),
            actions=stats_of(own[each.name]["action"]),
        )
        for each in data.members
    }


def of_dataset(notes: Notes, name: str, statistics: NormStats) -> Notes:
    """The notes of a policy of a mixture as that of one of its datasets: a plain policy, fed by its cameras."""
    own = notes.members[name]
    return replace(
        notes,
        asset_id=name,
        members={},
        cameras={slot: own.get(slot) for slot in notes.cameras},
        action_dim=statistics.actions.width,
        state_dim=statistics.state.width,
    )


def asset_asked_for(options: Mapping[str, str]) -> str | None:
    """Whose statistics the options of loading ask for: `unnorm_key` and `asset_id` are two words for one choice.

    Raises:
        UserError: they name two.
    """
    key, asset = options.get("unnorm_key"), options.get("asset_id")
    if key is not None and asset is not None and key != asset:
        raise UserError(
            f"unnorm_key={key} and asset_id={asset}: both say whose statistics are used. Leave one of them out."
        )
    return asset if key is None else key
