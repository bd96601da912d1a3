"""Chooses which camera of a dataset feeds which image input, and at what size. Imports nothing heavy."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON
from xp.models.camera_maps import format_map, mismatch
from xp.models.lerobot.options import LeRobotOptions
from xp.models.lerobot.sidecar import Sidecar, read_sidecar

PREFIX = "observation.images."


def image_key(camera: str) -> str:
    """The input of a policy that a camera name stands for; a name with a dot in it is the input's whole name."""
    return camera if "." in camera else PREFIX + camera


def camera_name(key: str) -> str:
    """Undo `image_key`."""
    return key.removeprefix(PREFIX)


def resolve_cameras(options: LeRobotOptions, cameras: Collection[str], sidecar: Sidecar | None) -> dict[str, str]:
    """{input of the policy: dataset camera}, in the order of the policy's inputs.

    `model.cameras` maps names of the policy's cameras to those of the dataset, or lists dataset cameras to use; null
    takes all of the dataset's under their own names. A pretrained policy (its `sidecar`) has its own names, each of
    which must be fed.

    Raises:
        UserError: an unknown camera, or inputs that nothing feeds: both sets, and the override that maps them.
    """
    given = options.cameras
    if isinstance(given, Mapping):
        chosen = {image_key(str(name)): str(camera) for name, camera in given.items()}
    else:
        listed = cameras if given is None else given if isinstance(given, Iterable) else [given]
        chosen = {image_key(str(name)): str(name) for name in listed}
    for name in chosen.values():
        if name not in cameras:
            raise UserError(
                f"model.cameras={_shown(given)}: the dataset has no camera "
                f"'{name}'{did_you_mean(name, cameras)}. It has "
                f"{join_names(cameras)}. Type for instance model.cameras=[{next(iter(cameras), 'NAME')}]"
            )
    if sidecar is None:
        return chosen
    wanted = list(sidecar.images)
    if sidecar.cameras and given is None and set(sidecar.cameras.values()) <= set(cameras):
        return dict(sidecar.cameras)
    if given is None and set(wanted) <= set(chosen):
        return {key: chosen[key] for key in wanted}
    if set(wanted) != set(chosen):
        raise UserError(mismatch("model.cameras", {name: name for name in map(camera_name, wanted)}, list(cameras)))
    return {key: chosen[key] for key in wanted}


def camera_sizes(
    options: LeRobotOptions, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
) -> dict[str, tuple[int, int]]:
    """Size (height, width) in pixels at which the model wants each dataset camera that it uses.

    `model.image_size` where it is given, else what a pretrained policy was trained on, else the size as stored.
    """
    sidecar = read_sidecar(pretrained) if pretrained else None
    size = _image_size(options.image_size)
    sizes: dict[str, tuple[int, int]] = {}
    for key, camera in resolve_cameras(options, cameras, sidecar).items():
        stored = (sidecar.images[key] if sidecar else cameras[camera])[:2]
        sizes[camera] = size or (int(stored[0]), int(stored[1]))
    return sizes


def _image_size(given: JSON) -> tuple[int, int] | None:
    if given is None:
        return None
    listed = given if isinstance(given, Sequence) else ()
    lengths = [int(length) for length in listed if isinstance(length, int | float)]
    height, width = lengths if len(listed) == len(lengths) == 2 else (0, 0)
    if min(height, width) < 8:
        raise UserError(
            f"model.image_size={given}: give [height, width] in pixels, each at least 8, or null for the size as "
            "stored. Type for instance model.image_size=[96,96]"
        )
    return height, width


def _shown(given: JSON) -> str:
    if isinstance(given, Mapping):
        return format_map({name: str(camera) for name, camera in given.items()})
    if given is None:
        return "null"
    return "[" + ",".join(map(str, given)) + "]" if isinstance(given, Iterable) else str(given)
