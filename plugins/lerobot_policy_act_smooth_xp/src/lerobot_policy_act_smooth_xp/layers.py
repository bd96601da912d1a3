"""Transformer layers of ACT with attention masks, and its position encodings (Zhao et al., arXiv:2304.13705).

Sequences come first: [S, B, E]. Parameter names are those of LeRobot's ACT.
"""

import math

import torch
from torch import Tensor, nn

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig

_ACTIVATIONS = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


class _Layer(nn.Module):
    """What encoder and decoder layers share: self-attention, the feed-forward part and the order of norms."""

    def __init__(self, config: ACTSmoothConfig) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(config.dim_model, config.n_heads, dropout=config.dropout)
        self.linear1 = nn.Linear(config.dim_model, config.dim_feedforward)
        self.dropout = nn.Dropout(config.dropout)
        self.linear2 = nn.Linear(config.dim_feedforward, config.dim_model)
        self.norm1, self.dropout1 = nn.LayerNorm(config.dim_model), nn.Dropout(config.dropout)
        self.norm2, self.dropout2 = nn.LayerNorm(config.dim_model), nn.Dropout(config.dropout)
        self.activation = _ACTIVATIONS[config.feedforward_activation]
        self.pre_norm = config.pre_norm

    def feed_forward(self, x: Tensor) -> Tensor:
        """Per token: widen, activate, narrow."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class EncoderLayer(_Layer):
    """Self-attention, then feed-forward, with residuals; norms before (pre_norm) or after each."""

    def attend(self, x: Tensor, position: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
        """Self-attention; positions are added to queries and keys, not to values."""
        query = x + position
        return self.self_attn(query, query, x, attn_mask=mask, key_padding_mask=padding, need_weights=False)[0]

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None, padding: Tensor | None = None) -> Tensor:
        """As `Encoder.forward`."""
        if self.pre_norm:
            x = x + self.dropout1(self.attend(self.norm1(x), position, mask, padding))
            return x + self.dropout2(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout1(self.attend(x, position, mask, padding)))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))


class DecoderLayer(_Layer):
    """Self-attention among the queries of a chunk, attention to the encoder's tokens, then feed-forward."""

    def __init__(self, config: ACTSmoothConfig) -> None:
        super().__init__(config)
        self.norm3, self.dropout3 = nn.LayerNorm(config.dim_model), nn.Dropout(config.dropout)
        self.multihead_attn = nn.MultiheadAttention(config.dim_model, config.n_heads, dropout=config.dropout)

    def attend(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention among the queries."""
        query = x + position
        return self.self_attn(query, query, x, attn_mask=mask, need_weights=False)[0]

    def cross(self, x: Tensor, position: Tensor, memory: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of the queries to the encoder's tokens."""
        return self.multihead_attn(x + position, keys, memory, attn_mask=mask, need_weights=False)[0]

    def forward(
        self, x: Tensor, position: Tensor, memory: Tensor, keys: Tensor, masks: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        """As `Decoder.forward`, with the positions already added to the `keys`."""
        if self.pre_norm:
            x = x + self.dropout1(self.attend(self.norm1(x), position, masks[0]))
            x = x + self.dropout2(self.cross(self.norm2(x), position, memory, keys, masks[1]))
            return x + self.dropout3(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout1(self.attend(x, position, masks[0])))
        x = self.norm2(x + self.dropout2(self.cross(x, position, memory, keys, masks[1])))
        return self.norm3(x + self.dropout3(self.feed_forward(x)))


class Encoder(nn.Module):
    """A stack of encoder layers; a last norm only with pre_norm."""

    def __init__(self, config: ACTSmoothConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.dim_model) if config.pre_norm else nn.Identity()

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None, padding: Tensor | None = None) -> Tensor:
        """Tokens [S, B, E] with positions [S, 1, E]; mask [S, S] and padding [B, S] bool, True is blocked."""
        for layer in self.layers:
            x = layer(x, position, mask, padding)
        return self.norm(x)


class Decoder(nn.Module):
    """A stack of decoder layers and a last norm."""

    def __init__(self, config: ACTSmoothConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_decoder_layers))
        self.norm = nn.LayerNorm(config.dim_model)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        masks: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        """Queries [Q, B, E] with positions [Q, 1, E], encoder tokens [S, B, E] with [S, 1, E]; (self, cross) masks."""
        keys = memory + memory_position
        for layer in self.layers:
            x = layer(x, position, memory, keys, masks)
        return self.norm(x)


def sinusoid_1d(positions: int, dim: int) -> Tensor:
    """[positions, dim]: sin and cos interleaved, wavelengths 2 pi 10000^(2i/dim) (Vaswani et al., arXiv:1706.03762)."""
    rate = 10000.0 ** (-2 * (torch.arange(dim, dtype=torch.float64) // 2) / dim)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * rate
    even = torch.arange(dim) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos()).float()


def sinusoid_2d(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """[height * width, dim], rows first: half of the channels encode y, half x, each as `sinusoid_1d` over (0, 2 pi].

    DETR's image positions (Carion et al., arXiv:2005.12872) as ACT uses them: counted from 1, scaled by the side.
    """
    half = dim // 2
    rate = 10000 ** (2 * (torch.arange(half, dtype=torch.float32, device=device) // 2) / half)
    even = torch.arange(half, device=device) % 2 == 0

    def side(count: int) -> Tensor:
        steps = torch.arange(1, count + 1, dtype=torch.float32, device=device)
        angle = (steps / (count + 1e-6) * (2 * math.pi))[:, None] / rate
        return torch.where(even, angle.sin(), angle.cos())

    y = side(height)[:, None].expand(height, width, half)
    x = side(width)[None].expand(height, width, half)
    return torch.cat([y, x], dim=-1).reshape(height * width, dim)
