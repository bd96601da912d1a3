"""Measures whether the images that a policy sees change what it does, before it is scored."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from xp.errors import UserError
from xp.models.policy import Batch

FLOOR = 1e-6
"""Relative change of the actions below which a policy counts as blind: float32 rounding, with room."""


@runtime_checkable
class Predicts(Protocol):
    """The part of a `Policy` that is asked here."""

    def predict(self, observation: Batch, *, seed: int = 0) -> Float[np.ndarray, "batch horizon action"]:
        """Observation in, actions out."""
        ...


def image_sensitivity(
    policy: Predicts, observations: Sequence[Batch], *, where: str, allow_blind: bool = False
) -> dict[str, float | bool]:
    """Compare the actions on real images with those on black and on noise images, all else equal.

    Args:
        policy: asked with one fixed seed, so nothing but the images differs.
        observations: batches of one window each.
        where: what the policy is called in the error.
        allow_blind: whether a policy that ignores its images may be scored all the same.

    Returns:
        `black` and `noise`: the largest absolute change of any action, in dataset units, over the observations;
        `blind`: whether the actions do not change at all. A policy that takes no images ignores none: 0, 0, False.

    Raises:
        UserError: they do not, so the policy ignores its images, and `allow_blind` is off.
    """
    if not any(_images(observation) for observation in observations):
        return {"black": 0.0, "noise": 0.0, "blind": False}
    real = [policy.predict(observation, seed=0) for observation in observations]
    scale = max(float(np.abs(actions).max()) for actions in real)
    changes = {
        name: max(
            float(np.abs(policy.predict(_with_images(observation, name), seed=0) - actions).max())
            for observation, actions in zip(observations, real, strict=True)
        )
        for name in ("black", "noise")
    }
    blind = max(changes.values()) <= FLOOR * max(scale, 1.0)
    if blind and not allow_blind:
        raise UserError(
            f"The policy {where} ignores its images: its actions are the same for real, black and noise images, so a "
            "score would say nothing about what it sees. Look at the camera names in config.json of its training run, "
            "or train it with images. To score it all the same (a floor for others) type eval.allow_blind=true."
        )
    return {**changes, "blind": blind}


def _with_images(observation: Batch, kind: str) -> Batch:
    draw = np.random.default_rng(0)
    other = {
        key: np.zeros_like(value) if kind == "black" else draw.integers(0, 256, value.shape, dtype=np.uint8)
        for key, value in _images(observation).items()
    }
    return {**observation, **other}


def _images(observation: Batch) -> dict[str, np.ndarray]:
    return {key: np.asarray(value) for key, value in observation.items() if key.startswith("observation.images.")}
