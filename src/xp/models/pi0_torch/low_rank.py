"""Low-rank updates beside the linear layers of an expert, as openpi computes them in JAX (Hu et al. 2022).

The factors `lora_a` and `lora_b` have the axes of openpi's leaves, so that they are the same numbers in both
frameworks: heads apart in attention, where PEFT would have one pair for all of them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from xp.models.pi0.network.sizes import ExpertSizes


class LowRank(nn.Linear):
    """A linear layer without a bias and its update x A B: A [in, r], B [r, out]. Those of the MLP take no scale."""

    def __init__(self, layer: nn.Linear, a: tuple[int, ...], b: tuple[int, ...], scale: float = 1.0) -> None:
        """Beside a layer of the same sizes, with factors of shapes `a` and `b`; nothing has values yet."""
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.lora_a, self.lora_b = nn.Parameter(torch.empty(a)), nn.Parameter(torch.empty(b))
        self.scale = scale

    def forward(self, input: Float[torch.Tensor, "*axes in"]) -> Float[torch.Tensor, "*axes out"]:  # noqa: A002
        """The product with the weight, and the update."""
        return super().forward(input) + self.update(input) * self.scale

    def update(self, x: Float[torch.Tensor, "*axes in"]) -> Float[torch.Tensor, "*axes out"]:
        """What the factors add, before the scale."""
        return x @ self.lora_a @ self.lora_b


class ToHeads(LowRank):
    """Of a layer that gives heads, a pair for each: A [heads, in, r], B [heads, r, width]."""

    def update(self, x: Float[torch.Tensor, "*axes in"]) -> Float[torch.Tensor, "*axes out"]:
        """See `LowRank.update`."""
        low = torch.einsum("...d,ndr->...nr", x, self.lora_a)
        return torch.einsum("...nr,nrh->...nh", low, self.lora_b).flatten(-2)


class JoinsHeads(LowRank):
    """Of the layer that joins heads: A [heads, width, r], B [heads, r, out], summed over the heads as openpi does."""

    def update(self, x: Float[torch.Tensor, "*axes in"]) -> Float[torch.Tensor, "*axes out"]:
        """See `LowRank.update`."""
        return x @ self.lora_a.flatten(0, 1) @ self.lora_b.sum(0)


def add_updates(model: Any, sizes: ExpertSizes) -> None:
    """Put an update beside every layer of attention and MLP of a Gemma, where its sizes have a rank."""
    rank, scale = sizes.lora_rank, sizes.lora_scale
    if rank is None:
        return
    width, inner, heads, head_dim = sizes.width, sizes.mlp, sizes.heads, sizes.head_dim
    for layer in model.layers:
        own, mlp = layer.self_attn, layer.mlp
        own.q_proj = ToHeads(own.q_proj, (heads, width, rank), (heads, rank, head_dim), scale)
        for name in ("k_proj", "v_proj"):
            keys = sizes.kv_heads
            made = ToHeads(getattr(own, name), (keys, width, rank), (keys, rank, head_dim), scale)
            setattr(own, name, made)
        own.o_proj = JoinsHeads(own.o_proj, (heads, head_dim, rank), (heads, rank, width), scale)
        for name in ("gate_proj", "up_proj"):
            setattr(mlp, name, LowRank(getattr(mlp, name), (width, rank), (rank, inner)))
        mlp.down_proj = LowRank(mlp.down_proj, (inner, rank), (rank, width))
