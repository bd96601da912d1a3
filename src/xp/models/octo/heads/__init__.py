"""Action heads: readout tokens to action chunks, each with its loss, its sampler and, where it has one, its density."""

from xp.models.octo.heads.base import ActionHead, Density
from xp.models.octo.heads.continuous import L1ActionHead, MSEActionHead
from xp.models.octo.heads.diffusion import DiffusionActionHead
from xp.models.octo.heads.gaussian import GaussianActionHead
from xp.models.octo.heads.teleop import TeleoperationActionHead

__all__ = [
    "ActionHead",
    "Density",
    "DiffusionActionHead",
    "GaussianActionHead",
    "L1ActionHead",
    "MSEActionHead",
    "TeleoperationActionHead",
]
