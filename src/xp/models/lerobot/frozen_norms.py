"""Frozen normalisations of a ResNet that starts at random.

ACT (Zhao et al. 2023, section IV) freezes the batch normalisations of its ResNet with the means and variances of
ImageNet. Without pretrained weights they are left at mean 0 and variance 1, so nothing is normalised: what differs from
picture to picture is then a small part of features that are nearly the same for all. Filled from the first batch, each
normalisation does what it is there for (data-dependent initialisation: Krähenbühl et al. 2016), and stays frozen.
"""

from collections.abc import Callable, Collection

import torch
from torchvision.ops.misc import FrozenBatchNorm2d

from xp.errors import UserError

CHOICES = ("identity", "first_batch")
FILLED = ("running_mean", "running_var")
"""The buffers that are filled; scale and offset stay 1 and 0."""
LEAST_VARIANCE = 1e-6
"""Of a channel that is the same in all pictures: it is not blown up."""


def unfilled(module: torch.nn.Module) -> dict[str, FrozenBatchNorm2d]:
    """The frozen normalisations of a module, by name, that pass everything through unchanged."""
    found = {name: each for name, each in module.named_modules() if isinstance(each, FrozenBatchNorm2d)}
    return {name: each for name, each in found.items() if _is_identity(each)}


def fill(norms: Collection[torch.nn.Module], forward: Callable[[], object]) -> str:
    """Set mean and variance of each normalisation to those of what reaches it in one forward pass.

    Those before it are filled already when something reaches it. Where several cameras pass, one after the other, it
    holds what they have together. Torch's random state is left as it was.

    Returns:
        a line for the log.
    """
    hooks = [norm.register_forward_pre_hook(_Moments()) for norm in norms]
    try:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return f"{len(norms)} frozen normalisations of the backbone are filled from the first batch."


def check_choice(given: str | None) -> bool:
    """Whether the option `frozen_norms` asks for filling.

    Raises:
        UserError: it is none of the choices.
    """
    if given is not None and given not in CHOICES:
        raise UserError(f"model.frozen_norms={given}: expected one of {', '.join(CHOICES)}")
    return given == "first_batch"


class _Moments:
    """Mean and mean square, [C], of all that has reached one normalisation, which takes them at each pass."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: torch.Tensor | float = 0.0

    def __call__(self, norm: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        features = inputs[0].double()
        self.count += features.numel() // features.shape[1]
        self.sums = self.sums + torch.stack([features.sum((0, 2, 3)), features.square().sum((0, 2, 3))])
        mean, square = self.sums / self.count
        for name, value in zip(FILLED, (mean, (square - mean.square()).clamp_min(LEAST_VARIANCE))):
            norm.get_buffer(name).copy_(value)


def _is_identity(norm: FrozenBatchNorm2d) -> bool:
    mean, variance = (norm.get_buffer(name) for name in FILLED)
    return not mean.any() and bool((variance == 1).all())
