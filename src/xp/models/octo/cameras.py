"""Chooses which camera of a dataset feeds which image slot, and at what size. Imports neither numpy nor jax."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from xp.errors import UserError, did_you_mean, join_names
from xp.models.camera_maps import main_camera, on_hand
from xp.models.octo.options import SlotOptions

if TYPE_CHECKING:
    from xp.models.octo.io.spec import SlotNote


class Slot(NamedTuple):
    """One image input of the model: the dataset camera that feeds it and the size it is resized to, in pixels.

    `camera` is None where nothing feeds a saved policy's slot, which is then masked.
    """

    camera: str | None
    height: int
    width: int


def resolve_slots(slots: Mapping[str, SlotOptions], cameras: Collection[str]) -> dict[str, Slot]:
    """Choose one of the dataset's cameras for each slot of `model.cameras`, in the order of the slots.

    A slot's `camera` names one, or is null: then a slot called `wrist` takes a camera whose name contains wrist, hand
    or gripper, any other slot the first remaining one, preferring names with primary, top, front, oblique, agent or
    base. A slot without a camera is left out; `primary` must have one.

    Raises:
        UserError: an unknown camera, no camera for `primary`, or a size that is not a multiple of 16.
    """
    chosen = {name: _explicit(name, slot.camera, cameras) for name, slot in slots.items() if slot.camera}
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
    elif "primary" not in chosen and "wrist" in chosen and not slots["wrist"].camera:
        chosen["primary"] = chosen.pop("wrist")  # the only camera there is
    if "primary" not in chosen:
        raise UserError(
            f"The model's image slot 'primary' has no camera: the dataset has {join_names(cameras)}. "
            "Choose one with model.cameras.primary.camera=NAME, or use a dataset with images."
        )
    return {name: Slot(chosen[name], *_size(name, slots[name].size)) for name in slots if name in chosen}


def camera_notes(slots: Mapping[str, Slot]) -> "dict[str, SlotNote]":
    """The slots as config.json has them under `xp.cameras`."""
    return {name: {"camera": slot.camera, "size": [slot.height, slot.width]} for name, slot in slots.items()}


def camera_sizes(slots: Mapping[str, SlotOptions], cameras: Collection[str]) -> dict[str, tuple[int, int]]:
    """Size (height, width) in pixels at which the model wants each dataset camera that it uses."""
    sizes: dict[str, tuple[int, int]] = {}
    for name, slot in resolve_slots(slots, cameras).items():
        size = (slot.height, slot.width)
        assert slot.camera is not None
        if sizes.setdefault(slot.camera, size) != size:
            raise UserError(
                f"model.cameras.{name} wants camera '{slot.camera}' at {size[0]}x{size[1]}, another slot wants it at "
                f"{sizes[slot.camera][0]}x{sizes[slot.camera][1]}. Give both slots one size, or another camera."
            )
    return sizes


def _explicit(name: str, wanted: str, cameras: Collection[str]) -> str:
    if wanted not in cameras:
        raise UserError(
            f"model.cameras.{name}.camera={wanted}: the dataset has "
            f"{join_names(cameras)}{did_you_mean(wanted, cameras)}. "
            f"Name one of these, or null to have it chosen."
        )
    return wanted


def _automatic(name: str, free: list[str]) -> str | None:
    return next(iter(on_hand(free)), None) if name == "wrist" else main_camera(free)


def _size(name: str, size: tuple[int, ...]) -> tuple[int, int]:
    if len(size) != 2 or any(length < 16 or length % 16 for length in size):
        raise UserError(
            f"model.cameras.{name}.size={list(size)}: allowed are [height, width] in pixels, each a multiple of 16. "
            f"Type for instance model.cameras.{name}.size=[96,96]."
        )
    return size[0], size[1]
