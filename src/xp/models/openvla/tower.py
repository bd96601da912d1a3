"""A vision transformer as timm has it, with its names of weights: DINOv2 with registers, or SigLIP.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021; Oquab et al., "DINOv2", 2023; Zhai et al., "Sigmoid Loss for
Language Image Pre-Training", 2023. Of a tower OpenVLA reads the output of the layer before the last, without the final
norm and without class and register tokens; what lies behind that output is held, because the folders hold it, and
neither computed nor trained.

Letters: B batch, P patches, D width.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xp.models.openvla.sizes import REGISTERS, TowerSizes

EPS = 1e-6
"""Of every layer norm (timm's vision transformers)."""
SPREAD = 0.02
"""Deviation of freshly drawn embeddings."""


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[torch.Tensor, "batch tokens width"]) -> Float[torch.Tensor, "batch tokens width"]:
        """Every token looks at every token."""
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with the exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[torch.Tensor, "*lead width"]) -> Float[torch.Tensor, "*lead width"]:
        """Of each token by itself."""
        return self.fc2(functional.gelu(self.fc1(tokens)))


class LayerScale(nn.Module):
    """A factor on each channel of a branch (Touvron et al., "Going deeper with Image Transformers", 2021).

    OpenVLA's folders call it `scale_factor`: transformers 4.40 renamed weights called gamma.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        start = 0.1 if layers <= 18 else 1e-5 if layers <= 24 else 1e-6  # section 2 of the paper
        self.scale_factor = nn.Parameter(torch.full((width,), start))

    def forward(self, tokens: Float[torch.Tensor, "*lead width"]) -> Float[torch.Tensor, "*lead width"]:
        """The branch, scaled."""
        return tokens * self.scale_factor


class Block(nn.Module):
    """A layer of the transformer, normalised before each branch."""

    def __init__(self, sizes: TowerSizes, *, has_scales: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, EPS)
        self.attn = Attention(sizes.width, sizes.heads)
        self.ls1 = LayerScale(sizes.width, sizes.layers) if has_scales else nn.Identity()
        self.norm2 = nn.LayerNorm(sizes.width, EPS)
        self.mlp = Mlp(sizes.width, sizes.mlp)
        self.ls2 = LayerScale(sizes.width, sizes.layers) if has_scales else nn.Identity()

    def forward(self, tokens: Float[torch.Tensor, "batch tokens width"]) -> Float[torch.Tensor, "batch tokens width"]:
        """Attention, then the two layers of each token."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class PatchEmbedding(nn.Module):
    """A linear map of each patch, written as a convolution."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, pictures: Float[torch.Tensor, "batch 3 h w"]) -> Float[torch.Tensor, "batch patches width"]:
        """Patches row by row."""
        return self.proj(pictures).flatten(2).transpose(1, 2)


class AttentionPool(nn.Module):
    """SigLIP's pooling, whose weights the folders hold and which OpenVLA does not compute."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.latent = nn.Parameter(SPREAD * torch.randn(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, EPS)
        self.mlp = Mlp(width, sizes.mlp)


class Tower(nn.Module):
    """One vision transformer: pictures in, one feature a patch out."""

    def __init__(self, sizes: TowerSizes, *, patch: int, patches: int, is_dino: bool) -> None:
        """`is_dino`: with a class token, registers and layer scales; otherwise SigLIP's, with its pooling."""
        super().__init__()
        self.prefix = 1 + REGISTERS if is_dino else 0
        if is_dino:
            self.cls_token = nn.Parameter(SPREAD * torch.randn(1, 1, sizes.width))
            self.reg_token = nn.Parameter(SPREAD * torch.randn(1, REGISTERS, sizes.width))
        self.pos_embed = nn.Parameter(SPREAD * torch.randn(1, patches, sizes.width))
        self.patch_embed = PatchEmbedding(patch, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes, has_scales=is_dino) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width, EPS)
        if not is_dino:
            self.attn_pool = AttentionPool(sizes)
        self.is_checkpointed = False
        """Whether training computes the inner numbers of each layer again in the backward pass."""
        for part in self._unread():
            part.requires_grad_(False)

    def _unread(self) -> list[nn.Module]:
        """What lies behind the features."""
        return [self.blocks[-1], self.norm, *([] if self.prefix else [self.attn_pool])]

    def forward(self, pictures: Float[torch.Tensor, "batch 3 h w"]) -> Float[torch.Tensor, "batch patches width"]:
        """Features of the layer before the last. Position embeddings are the patches' alone."""
        tokens = self.patch_embed(pictures) + self.pos_embed
        if self.prefix:
            rows = len(tokens)
            tokens = torch.cat([self.cls_token.expand(rows, -1, -1), self.reg_token.expand(rows, -1, -1), tokens], 1)
        for block in self.blocks[:-1]:
            again = self.is_checkpointed and self.training
            tokens = cast(torch.Tensor, checkpoint(block, tokens, use_reentrant=False)) if again else block(tokens)
        return tokens[:, self.prefix :]
