"""Which dataset camera feeds which image input of a policy, and at what size. Light: no numpy, no torch, no lerobot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xp.errors import UserError, did_you_mean, join_names
from xp.models.camera_maps import mismatch, shown
from xp.models.lerobot.sidecar import Papers, read_papers

PREFIX = "observation.images."


def image_key(camera: str) -> str:
    """The input of a policy that a camera name stands for; a name with a dot in it is the input's whole name."""
    return camera if "." in camera else PREFIX + camera


def camera_name(key: str) -> str:
    """Undo `image_key`."""
    return key.removeprefix(PREFIX)


def resolve_cameras(model_cfg: Mapping[str, Any], cameras: Mapping[str, Any], papers: Papers | None) -> dict[str, str]:
    """{input of the policy: dataset camera}, in the order of the policy's inputs.

    `model.cameras` maps names of the policy's cameras to those of the dataset, or lists dataset cameras to use; null
    takes all of the dataset's under their own names. A pretrained policy (its `papers`) has its own names, each of
    which must be fed.

    Raises:
        UserError: an unknown camera, or inputs that nothing feeds: both sets, and the override that maps them.
    """
    given = model_cfg.get("cameras")
    if isinstance(given, Mapping):
        chosen = {image_key(str(name)): str(camera) for name, camera in given.items()}
    else:
        chosen = {image_key(str(name)): str(name) for name in (cameras if given is None else given)}
    for name in chosen.values():
        if name not in cameras:
            raise UserError(
                f"model.cameras={_shown(given)}: the dataset has no camera "
                f"'{name}'{did_you_mean(name, cameras)}. It has "
                f"{join_names(cameras)}. Type for instance model.cameras=[{next(iter(cameras), 'NAME')}]"
            )
    if papers is None:
        return chosen
    wanted = list(papers.images)
    if papers.cameras and given is None and set(papers.cameras.values()) <= set(cameras):
        return dict(papers.cameras)
    if given is None and set(wanted) <= set(chosen):
        return {key: chosen[key] for key in wanted}
    if set(wanted) != set(chosen):
        raise UserError(mismatch("model.cameras", {name: name for name in map(camera_name, wanted)}, list(cameras)))
    return {key: chosen[key] for key in wanted}


def camera_sizes(
    model_cfg: Mapping[str, Any], cameras: Mapping[str, Any], pretrained: Path | None = None
) -> dict[str, tuple[int, int]]:
    """Size (height, width) in pixels at which the model wants each dataset camera that it uses.

    `model.image_size` where it is given, else what a pretrained policy was trained on, else the size as stored.
    """
    papers = read_papers(pretrained) if pretrained else None
    size = _image_size(model_cfg)
    sizes: dict[str, tuple[int, int]] = {}
    for key, camera in resolve_cameras(model_cfg, cameras, papers).items():
        stored = (papers.images[key] if papers else cameras[camera])[:2]
        sizes[camera] = size or (int(stored[0]), int(stored[1]))
    return sizes


def _image_size(model_cfg: Mapping[str, Any]) -> tuple[int, int] | None:
    given = model_cfg.get("image_size")
    if given is None:
        return None
    try:
        height, width = (int(length) for length in given)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 8:
        raise UserError(
            f"model.image_size={given}: give [height, width] in pixels, each at least 8, or null for the size as "
            "stored. Type for instance model.image_size=[96,96]"
        )
    return height, width


def _shown(given: Any) -> str:
    if isinstance(given, Mapping):
        return shown(given)
    return "null" if given is None else "[" + ",".join(map(str, given)) + "]"
