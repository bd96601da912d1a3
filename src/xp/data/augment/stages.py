"""What an operation does to each sample of a batch: amounts are drawn once for all, then applied to pieces of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64

from xp.config.augmentation import Operation
from xp.data.augment import colour, warp
from xp.data.augment.draws import Draws, happens

type Size = tuple[int, int]
type Values = Float64[np.ndarray, " batch"]
type Pictures = Float32[np.ndarray, "3 images height width"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a view's work on a batch: a map to sample by, or a change of colours.

    `amounts` has an array with one entry a sample for each argument of `change`.
    """

    active: Bool[np.ndarray, " batch"]
    """The samples that it changes."""
    change: "Callable[..., Pictures]"
    amounts: "Mapping[str, np.ndarray]"

    @property
    def is_bilinear(self) -> bool:
        """Whether it samples bilinearly by `amounts["maps"]`: two such in a row are one."""
        return self.change in (warp.sample_bilinear, warp.sample_upright)

    def apply(self, pictures: Pictures, start: int, stop: int, history: int) -> Pictures:
        """Change the pictures of samples `start` to `stop`, each with `history` frames one after the other.

        Pictures of samples that are not active stay as they are. The array may be changed in place.
        """
        active = self.active[start:stop]
        if not active.any():
            return pictures
        amounts = {name: values[start:stop][active].repeat(history, axis=0) for name, values in self.amounts.items()}
        if active.all():
            return self.change(pictures, **amounts)
        rows = active.repeat(history)
        pictures[:, rows] = self.change(pictures[:, rows], **amounts)
        return pictures


def merged(stages: list[Stage]) -> list[Stage]:
    """The stages, where several in a row that sample bilinearly are one: as in augmax's chains, sampled once."""
    found: list[Stage] = []
    for stage in stages:
        if found and stage.is_bilinear and found[-1].is_bilinear:
            before = found.pop()
            maps = _maps(before) @ _maps(stage)
            # By what the operations are, not by what they drew: a sample's result depends on no other sample.
            change = stage.change if before.change is stage.change else warp.sample_bilinear
            stage = replace(stage, active=before.active | stage.active, change=change, amounts={"maps": maps})
        found.append(stage)
    return found


def make_stage(operation: Operation, draws: Draws, active: Bool[np.ndarray, " batch"], size: Size) -> Stage:
    """The work of an operation on a batch.

    Args:
        operation: what, and between which bounds.
        draws: random numbers of this operation.
        active: the samples it is for.
        size: (height, width) in pixels of the pictures.
    """
    options = operation.options
    if operation.type in _MAPS:
        draw, sample = _MAPS[operation.type]
        return Stage(active=active, change=sample, amounts={"maps": draw(options, draws, size)})
    if operation.type == "hsv_jitter":
        return _jitter(options, draws, active)
    change, name = _COLOURS[operation.type]
    amount = draws.between(0, options[name])
    return Stage(active=active, change=_on_planes(change), amounts={name: amount.astype(np.float32)})


def _jitter(options: Mapping[str, tuple[float, float]], draws: Draws, active: Bool[np.ndarray, " batch"]) -> Stage:
    names = {"brightness": "brightness", "contrast": "contrast", "hue": "turn"}
    amounts = {
        argument: draws.between(i, (-options[name][0], options[name][0])).astype(np.float32)
        for i, (name, argument) in enumerate(names.items())
    }
    active = active & happens(draws, len(names), options["probability"][0])
    return Stage(active=active, change=_on_planes(colour.hsv_jitter), amounts=amounts)


def _on_planes(change: Callable[..., colour.Planes]) -> Callable[..., Pictures]:
    """A change of colours, on pictures with their rows, with amounts [N]."""

    def changed(pictures: Pictures, **amounts: Float32[np.ndarray, " images"]) -> Pictures:
        columns = {name: values[:, None] for name, values in amounts.items()}
        if change is colour.sharpness:
            columns["height"] = pictures.shape[2]
        planes = np.ascontiguousarray(pictures).reshape(*pictures.shape[:2], -1)
        return change(planes, **columns).reshape(pictures.shape)

    return changed


def _maps(stage: Stage) -> warp.Maps:
    """A stage's maps, those that change nothing where it is not active."""
    return np.where(stage.active[:, None, None], stage.amounts["maps"], np.eye(3))


def _resized_crop(options: Mapping[str, tuple[float, float]], draws: Draws, size: Size) -> warp.Maps:
    low, high = np.log(options["ratio"])
    ratio = np.exp(draws.between(1, (float(low), float(high))))
    return warp.resized_crop(draws.between(0, options["scale"]), ratio, draws.uniform(2), draws.uniform(3), size)


def _crop(options: Mapping[str, tuple[float, float]], draws: Draws, size: Size) -> warp.Maps:
    return warp.crop(draws.between(0, options["size"]), draws.uniform(1), draws.uniform(2), size)


def _rotation(options: Mapping[str, tuple[float, float]], draws: Draws, size: Size) -> warp.Maps:
    return warp.rotation(draws.between(0, options["degrees"]), size)


def _affine(options: Mapping[str, tuple[float, float]], draws: Draws, size: Size) -> warp.Maps:
    (height, width), (across, down) = size, options["translate"]
    shift_x = np.rint(draws.between(1, (-across * width, across * width)))
    shift_y = np.rint(draws.between(2, (-down * height, down * height)))
    scale, shear = draws.between(3, options["scale"]), draws.between(4, options["shear"])
    return warp.affine(draws.between(0, options["degrees"]), shift_x, shift_y, scale, shear, size)


_MAPS: dict[str, tuple[Callable[..., warp.Maps], Callable[..., Pictures]]] = {
    "resized_crop": (_resized_crop, warp.sample_upright),
    "crop": (_crop, warp.sample_upright),
    "rotation": (_rotation, warp.sample_bilinear),
    "affine": (_affine, warp.sample_nearest),
}
_COLOURS: dict[str, tuple[Callable[..., colour.Planes], str]] = {
    "brightness_offset": (colour.brightness_offset, "delta"),
    "contrast_by_channel": (colour.contrast_by_channel, "factor"),
    "saturation_hsv": (colour.saturation_hsv, "factor"),
    "hue": (colour.hue, "turn"),
    "brightness": (colour.brightness, "factor"),
    "contrast": (colour.contrast, "factor"),
    "saturation": (colour.saturation, "factor"),
    "sharpness": (colour.sharpness, "factor"),
}
