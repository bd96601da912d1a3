"""Chooses which camera of a dataset feeds which image input of pi0. Imports nothing heavy."""

from collections.abc import Collection, Mapping, Sequence

from xp.errors import UserError, did_you_mean, join_names
from xp.models.camera_maps import main_camera, on_hand

SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""Names of openpi's image inputs, in the order of their tokens."""
BASE, LEFT, RIGHT = SLOTS


def stored_sizes(given: Mapping[str, str | None], cameras: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    """{camera that is used: (height, width) as stored}: a policy fits pictures into its square itself.

    Args:
        given: as of `resolve_cameras`.
        cameras: {dataset camera: (height, width, channels)}.
    """
    chosen = resolve_cameras(given, cameras)
    return {camera: (int(cameras[camera][0]), int(cameras[camera][1])) for camera in chosen.values()}


def resolve_cameras(given: Mapping[str, str | None], cameras: Collection[str]) -> dict[str, str]:
    """One of the dataset's cameras for each image input that gets one, in the order of `SLOTS`.

    An input's camera is named or None: then a camera whose name contains wrist, hand or gripper feeds the left wrist's
    input, or with `right` in its name the right one's, and any other the base's, preferring names with primary, top,
    front, oblique, agent or base. An only camera feeds the base. An input without a camera is left out: what is masked
    takes no part in the computation.

    Raises:
        UserError: an unknown input or camera, or no camera at all.
    """
    for name, camera in given.items():
        if name not in SLOTS:
            raise UserError(
                f"model.cameras.{name}: a pi0 has the image inputs {join_names(SLOTS)}{did_you_mean(name, SLOTS)}. "
                f"Type for instance model.cameras.{BASE}=CAMERA"
            )
        if camera is not None and camera not in cameras:
            raise UserError(
                f"model.cameras.{name}={camera}: the dataset has {join_names(cameras)}{did_you_mean(camera, cameras)}. "
                "Name one of these, or null to have it chosen."
            )
    chosen = {name: camera for name, camera in given.items() if camera is not None}
    free = [camera for camera in cameras if camera not in chosen.values()]
    for name in (name for name in (RIGHT, LEFT, BASE) if name in given and name not in chosen):
        camera = _automatic(name, free)
        if camera is not None:
            chosen[name] = camera
            free.remove(camera)
    if BASE in given and BASE not in chosen and chosen:
        first = next(name for name in (LEFT, RIGHT) if name in chosen)
        if given[first] is None:
            chosen[BASE] = chosen.pop(first)
    if not chosen:
        raise UserError(
            f"The model has no camera: the dataset has {join_names(cameras)}. Choose one with "
            f"model.cameras.{BASE}=CAMERA, or use a dataset with images."
        )
    return {name: chosen[name] for name in SLOTS if name in chosen}


def _automatic(name: str, free: Sequence[str]) -> str | None:
    if name == RIGHT:
        return next((camera for camera in on_hand(free) if "right" in camera.lower()), None)
    if name == LEFT:
        return next((camera for camera in on_hand(free) if "right" not in camera.lower()), None)
    return main_camera(free)
