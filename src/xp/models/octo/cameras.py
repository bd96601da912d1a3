"""Which camera of a dataset feeds which image slot of the model, and at what size. Light: no numpy, no jax."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from xp.errors import UserError, did_you_mean, join_names

WRIST_WORDS = ("wrist", "hand", "gripper")
PRIMARY_WORDS = ("primary", "top", "front", "oblique", "agent", "base")


class Slot(NamedTuple):
    """One image input of the model: the dataset camera that feeds it and the size it is resized to, in pixels.

    `camera` is None where nothing feeds a saved policy's slot, which is then masked.
    """

    camera: str | None
    height: int
    width: int


def resolve_slots(model_cfg: Mapping[str, Any], cameras: Mapping[str, Any]) -> dict[str, Slot]:
    """Choose a camera for each slot of `model_cfg["cameras"]`, in the order of the slots.

    A slot's `camera` names one, or is null: then a slot called `wrist` takes a camera whose name contains wrist, hand
    or gripper, any other slot the first remaining one, preferring names with primary, top, front, oblique, agent or
    base. A slot without a camera is left out; `primary` must have one.

    Raises:
        UserError: an unknown camera, no camera for `primary`, or a size that is not a multiple of 16.
    """
    slots = model_cfg["cameras"]
    chosen = {name: _explicit(name, slot, cameras) for name, slot in slots.items() if slot.get("camera")}
    free = [camera for camera in cameras if camera not in chosen.values()]
    for name in sorted(slots, key=lambda slot: slot != "wrist"):
        if name in chosen:
            continue
        camera = _automatic(name, free)
        if camera is not None:
            chosen[name] = camera
            free.remove(camera)
    if "primary" not in chosen and free:
        chosen["primary"] = free[0]
    elif "primary" not in chosen and "wrist" in chosen and not slots.get("wrist", {}).get("camera"):
        chosen["primary"] = chosen.pop("wrist")  # the only camera there is
    if "primary" not in chosen:
        raise UserError(
            f"The model's image slot 'primary' has no camera: the dataset has {join_names(cameras)}. "
            "Choose one with model.cameras.primary.camera=NAME, or use a dataset with images."
        )
    return {name: Slot(chosen[name], *_size(name, slots[name])) for name in slots if name in chosen}


def noted(slots: Mapping[str, Slot]) -> dict[str, dict[str, Any]]:
    """The slots as config.json has them under `xp.cameras`."""
    return {name: {"camera": slot.camera, "size": [slot.height, slot.width]} for name, slot in slots.items()}


def camera_sizes(model_cfg: Mapping[str, Any], cameras: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Size (height, width) in pixels at which the model wants each dataset camera that it uses."""
    sizes: dict[str, tuple[int, int]] = {}
    for name, slot in resolve_slots(model_cfg, cameras).items():
        size = (slot.height, slot.width)
        assert slot.camera is not None
        if sizes.setdefault(slot.camera, size) != size:
            raise UserError(
                f"model.cameras.{name} wants camera '{slot.camera}' at {size[0]}x{size[1]}, another slot wants it at "
                f"{sizes[slot.camera][0]}x{sizes[slot.camera][1]}. Give both slots one size, or another camera."
            )
    return sizes


def _explicit(name: str, slot: Mapping[str, Any], cameras: Mapping[str, Any]) -> str:
    wanted = str(slot["camera"])
    if wanted not in cameras:
        raise UserError(
            f"model.cameras.{name}.camera={wanted}: the dataset has "
            f"{join_names(cameras)}{did_you_mean(wanted, cameras)}. "
            f"Name one of these, or null to have it chosen."
        )
    return wanted


def _automatic(name: str, free: list[str]) -> str | None:
    on_hand = [camera for camera in free if any(word in camera.lower() for word in WRIST_WORDS)]
    if name == "wrist":
        return on_hand[0] if on_hand else None
    others = [camera for camera in free if camera not in on_hand]
    for word in PRIMARY_WORDS:
        for camera in others:
            if word in camera.lower():
                return camera
    return others[0] if others else None


def _size(name: str, slot: Mapping[str, Any]) -> tuple[int, int]:
    size = tuple(int(length) for length in slot["size"])
    if len(size) != 2 or any(length < 16 or length % 16 for length in size):
        raise UserError(
            f"model.cameras.{name}.size={list(size)}: allowed are [height, width] in pixels, each a multiple of 16. "
            f"Type for instance model.cameras.{name}.size=[96,96]."
        )
    return size[0], size[1]
