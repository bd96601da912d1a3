"""A processor step that brings pictures to the size on which a policy was trained."""

from dataclasses import dataclass, field

import numpy as np
import torch
from lerobot.configs.types import PipelineFeatureType, PolicyFeature
from lerobot.processor import (
    ObservationProcessorStep,
    PolicyProcessorPipeline,
    ProcessorStepRegistry,
    RenameObservationsProcessorStep,
)


@dataclass
@ProcessorStepRegistry.register(name="lanczos_resize")
class LanczosResizeStep(ObservationProcessorStep):
    """Resize each picture as a cache of uint8 frames does: PIL's antialiased Lanczos-3 on whole numbers of 0..255.

    Pictures that have their size already pass untouched. Floats of 0..1 are rounded to the nearest of the 256 values
    first (what a camera or a video gave is one of them exactly), so that a policy is asked about the very numbers that
    it was trained on. LeRobot's own `image_crop_resize_processor` is bilinear, on floats, and has one size for all.

    Attributes:
        sizes: {name of a picture in the observation: [height, width] in pixels}; others are left alone.
    """

    sizes: dict[str, list[int]] = field(default_factory=dict)

    def observation(self, observation: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The observation with its pictures [..., C, height, width] at their sizes."""
        found = dict(observation)
        for key, (height, width) in self.sizes.items():
            if key in found and tuple(found[key].shape[-2:]) != (height, width):
                found[key] = _resized(found[key], height, width, key)
        return found

    def get_config(self) -> dict[str, dict[str, list[int]]]:
        """What is saved."""
        return {"sizes": {key: [int(length) for length in size] for key, size in self.sizes.items()}}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """The features with the pictures' new sizes."""
        seen = {
            key: PolicyFeature(feature.type, (*feature.shape[:-2], *self.sizes[key])) if key in self.sizes else feature
            for key, feature in features.get(PipelineFeatureType.OBSERVATION, {}).items()
        }
        return {**features, PipelineFeatureType.OBSERVATION: seen}


def set_picture_sizes(preprocessor: PolicyProcessorPipeline, sizes: dict[str, list[int]]) -> None:
    """Let a policy's preprocessor resize pictures: right behind the step that renames them, or first of all."""
    steps = [step for step in preprocessor.steps if not isinstance(step, LanczosResizeStep)]
    places = [i for i, step in enumerate(steps) if isinstance(step, RenameObservationsProcessorStep)]
    place = places[0] + 1 if places else 0
    preprocessor.steps = [*steps[:place], LanczosResizeStep(sizes=dict(sizes)), *steps[place:]]


def _resized(pictures: torch.Tensor, height: int, width: int, key: str) -> torch.Tensor:
    """Pictures [..., C, h, w], uint8 or floats of 0..1, at another size, of the same type on the same device."""
    from PIL import Image

    channels = pictures.shape[-3] if pictures.ndim >= 3 else 0
    if channels not in (1, 3):
        raise ValueError(f"'{key}' has the shape {tuple(pictures.shape)}: a picture is [..., channels (1 or 3), h, w].")
    is_float = pictures.is_floating_point()
    whole = (pictures * 255.0).round().clamp(0, 255) if is_float else pictures
    flat = whole.to("cpu", torch.uint8).movedim(-3, -1).reshape(-1, *pictures.shape[-2:], channels).numpy()
    images = [Image.fromarray(one if channels == 3 else one[..., 0]) for one in flat]
    small = [np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)) for image in images]
    found = torch.from_numpy(np.stack(small).reshape(*pictures.shape[:-3], height, width, channels)).movedim(-1, -3)
    found = found.contiguous().to(pictures.device)
    return found.to(pictures.dtype).div_(255.0) if is_float else found
