"""Action heads: from readout tokens to chunks of actions, each with a loss, a sampler and, for some, a density."""

from xp.models.octo.heads.base import ActionHead, Density
from xp.models.octo.heads.continuous import ContinuousActionHead, L1ActionHead, MSEActionHead
from xp.models.octo.heads.diffusion import DiffusionActionHead
from xp.models.octo.heads.discrete import DiscreteActionHead, TokenPerDimActionHead
from xp.models.octo.heads.gaussian import GaussianActionHead
from xp.models.octo.heads.teleop import TeleoperationActionHead
from xp.models.octo.heads.unet_diffusion import UNetDDPMActionHead

__all__ = [
    "ActionHead",
    "ContinuousActionHead",
    "Density",
    "DiffusionActionHead",
    "DiscreteActionHead",
    "GaussianActionHead",
    "L1ActionHead",
    "MSEActionHead",
    "TeleoperationActionHead",
    "TokenPerDimActionHead",
    "UNetDDPMActionHead",
]
