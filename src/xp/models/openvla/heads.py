"""What stands beside OpenVLA's network for chunks in one pass: places, the L1 head, the robot's state as a token.

After Kim et al., "Fine-Tuning Vision-Language-Action Models: Optimizing Speed and Success" (OpenVLA-OFT), 2025, section
4; the names of the weights are those of its code (`prismatic/models/action_heads.py`, `projectors.py`). It feeds zeros
at the places behind the prompt, as `chunk_mode=oft` does; in `parallel` each has an embedding of its own that is
learned, since in a small language model zeros are told apart too late.

Letters: B batch, K numbers of an answer, A action, Q actions of an answer, D width of the language model.
"""

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

BLOCKS = 2
"""Residual blocks of the L1 head."""
SPREAD = 0.02
"""Deviation of freshly drawn embeddings, as of the language model's own."""


class Places(nn.Module):
    """A learned embedding for each place behind the prompt."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(SPREAD * torch.randn(count, width))


class ResidualBlock(nn.Module):
    """Norm, layer, ReLU, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, given: Float[torch.Tensor, "*lead width"]) -> Float[torch.Tensor, "*lead width"]:
        """Of each action by itself."""
        return given + self.ffn(given)


class ResidualMlp(nn.Module):
    """OFT's "MLPResNet": from the hidden states of an action's numbers to the action."""

    def __init__(self, given: int, width: int, action_dim: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(given)
        self.fc1 = nn.Linear(given, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(BLOCKS))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_dim)

    def forward(self, given: Float[torch.Tensor, "batch answers _"]) -> Float[torch.Tensor, "batch answers action"]:
        """Normalised actions."""
        hidden = functional.relu(self.fc1(self.layer_norm1(given)))
        for block in self.mlp_resnet_blocks:
            hidden = block(hidden)
        return self.fc2(self.layer_norm2(hidden))


class L1Head(nn.Module):
    """Actions as numbers: hidden states of A places [B, Q A, D] become normalised actions [B, Q, A]."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = ResidualMlp(width * action_dim, width, action_dim)

    def forward(self, hidden: Float[torch.Tensor, "batch places width"]) -> Float[torch.Tensor, "batch answers action"]:
        """Each action from the places of its own numbers."""
        return self.model(hidden.unflatten(1, (-1, self.action_dim)).flatten(2))


class ProprioProjector(nn.Module):
    """The robot's normalised state [B, S] as one token [B, 1, D]."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(state_dim, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, state: Float[torch.Tensor, "batch state"]) -> Float[torch.Tensor, "batch 1 width"]:
        """One token."""
        return self.fc2(functional.gelu(self.fc1(state)))[:, None]
