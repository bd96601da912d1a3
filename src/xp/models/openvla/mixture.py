"""Several datasets in one OpenVLA: each has its entry of `norm_stats`, as OpenVLA's own models of many datasets do."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from xp.errors import UserError, join_names
from xp.models.openvla.sidecar import Notes
from xp.models.policy import DataSpec


def of_mixture(data: DataSpec, cameras: Collection[str], *, proprio: bool) -> dict[str, dict[str, str]]:
    """{dataset: {camera of the mixture: the dataset's own}} of the cameras that the model looks through.

    Args:
        data: what the mixture offers; of one dataset nothing comes of it.
        cameras: that the model looks through.
        proprio: whether it reads the robot's state.

    Raises:
        UserError: datasets whose actions (or states, where they are read) have several widths, of which each is so many
            tokens here; or one that lacks a camera, which an OpenVLA cannot mask.
    """
    widths = {"actions": [each.action_dim for each in data.members]}
    if proprio:
        widths["states"] = [each.state_dim for each in data.members]
    for what, found in widths.items():
        if len(set(found)) > 1:
            told = join_names(f"{each.name}: {width}" for each, width in zip(data.members, found, strict=True))
            raise UserError(
                f"data.mix: {what} of the datasets have several widths ({told}), and an OpenVLA has as many tokens as "
                "one of them has numbers. Take datasets of one width, or a model of a family that fills them up"
            )
    for each in data.members:
        dark = [camera for camera in cameras if camera not in each.cameras]
        if dark:
            raise UserError(
                f"data.mix.{each.name} has no camera {join_names(dark)}, and an OpenVLA cannot go without one. Say "
                f"which of its cameras that is: data.mix.{each.name}.cameras.{dark[0]}=CAMERA"
            )
    return {each.name: {camera: each.cameras[camera] for camera in cameras} for each in data.members}


def of_dataset(notes: Notes, key: str, camera_map: Mapping[str, str | None]) -> Notes:
    """The notes of a policy as that of one of its datasets: its statistics, and its cameras but where a map says so."""
    own = notes.members.get(key, {})
    cameras = {
        name: own.get(name, camera) if name not in camera_map else camera for name, camera in notes.cameras.items()
    }
    return replace(notes, unnorm_key=key, cameras=cameras)
