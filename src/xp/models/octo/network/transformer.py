"""The pre-norm transformer encoder and the attention pooling of Octo, with the parameter names of its checkpoints."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, NotRequired, TypedDict

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Shaped

from xp.models.octo.network.attention_mask import Block, attention_mask
from xp.models.octo.network.tokenizers import TokenGroup


class NamedGroup(NamedTuple):
    """A token group in the sequence, of the prefix [B, n, D] or of every step [B, T, n, D]."""

    name: str
    tokens: Float[Array, "batch *history tokens width"]
    mask: Shaped[Array, "batch *history tokens"]


class MlpBlock(nn.Module):
    """Dense, gelu (tanh form), dense: [..., D] -> [..., D]."""

    mlp_dim: int
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*lead width"], train: bool) -> Float[Array, "*lead width"]:
        """Apply, with dropout after each dense layer in training."""
        kernel_init, bias_init = nn.initializers.xavier_uniform(), nn.initializers.normal(1e-6)
        dense = partial(nn.Dense, kernel_init=kernel_init, bias_init=bias_init)
        inner = nn.gelu(dense(self.mlp_dim, name="Dense_0")(x))
        inner = nn.Dropout(self.dropout_rate, deterministic=not train)(inner)
        out = dense(x.shape[-1], name="Dense_1")(inner)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(out)


class EncoderBlock(nn.Module):
    """Norm, attention, residual; norm, feed-forward, residual."""

    mlp_dim: int
    heads: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length width"], mask: Bool[Array, "batch 1 length length"], train: bool
    ) -> Float[Array, "batch length width"]:
        """Transform tokens; True in the mask is attended to."""
        attention = nn.MultiHeadDotProductAttention(
            num_heads=self.heads,
            kernel_init=nn.initializers.xavier_uniform(),
            broadcast_dropout=False,
            dropout_rate=self.attention_dropout_rate,
            deterministic=not train,
            name="MultiHeadDotProductAttention_0",
        )
        normed = nn.LayerNorm(name="LayerNorm_0")(x)
        x = x + nn.Dropout(self.dropout_rate, deterministic=not train)(attention(normed, normed, mask=mask))
        normed = nn.LayerNorm(name="LayerNorm_1")(x)
        return x + MlpBlock(self.mlp_dim, self.dropout_rate, name="MlpBlock_0")(normed, train)


class Transformer(nn.Module):
    """A stack of encoder blocks and a final norm. No position embedding: the groups bring their own."""

    num_layers: int
    mlp_dim: int
    num_attention_heads: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length width"], mask: Bool[Array, "batch 1 length length"], train: bool
    ) -> Float[Array, "batch length width"]:
        """Map [B, L, D] to [B, L, D] under mask [B, 1, L, L]."""
        rates = (self.dropout_rate, self.attention_dropout_rate)
        kind = nn.remat(EncoderBlock, static_argnums=(3,)) if self.remat else EncoderBlock
        for index in range(self.num_layers):
            block = kind(self.mlp_dim, self.num_attention_heads, *rates, name=f"encoderblock_{index}")
            x = block(x, mask, train)
        return nn.LayerNorm(name="encoder_norm")(x)


class TransformerSizes(TypedDict):
    """Sizes and rates of a `BlockTransformer`, as config.json names them."""

    num_layers: int
    mlp_dim: int
    num_attention_heads: int
    dropout_rate: NotRequired[float]
    attention_dropout_rate: NotRequired[float]
    remat: NotRequired[bool]


class BlockTransformer(nn.Module):
    """Lays groups out as one sequence, attends blockwise-causally, and cuts the result into the same groups."""

    num_layers: int
    mlp_dim: int
    num_attention_heads: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    remat: bool = False
    use_correct_attention: bool = True

    @nn.compact
    def __call__(self, prefix: Sequence[NamedGroup], steps: Sequence[NamedGroup], train: bool) -> dict[str, TokenGroup]:
        """Return every group by name, tokens transformed, masks as they were."""
        batch, history = steps[0].tokens.shape[:2]
        mask = self._mask(prefix, steps, batch, history)
        each = jnp.concatenate([group.tokens for group in steps], axis=2)
        flat = each.reshape(batch, -1, each.shape[-1])
        sequence = jnp.concatenate([*(group.tokens for group in prefix), flat], axis=1)
        transformer = Transformer(
            self.num_layers,
            self.mlp_dim,
            self.num_attention_heads,
            self.dropout_rate,
            self.attention_dropout_rate,
            self.remat,
            name="Transformer_0",
        )
        out = transformer(sequence, mask, train)
        return _cut(out, prefix, steps, each.shape)

    def _mask(
        self, prefix: Sequence[NamedGroup], steps: Sequence[NamedGroup], batch: int, history: int
    ) -> Bool[Array, "{batch} 1 length length"]:
        """Blockwise-causal and not padding."""
        rules = attention_mask(
            [Block(group.name, group.tokens.shape[-2]) for group in prefix],
            [Block(group.name, group.tokens.shape[-2]) for group in steps],
            history,
            correct=self.use_correct_attention,
        )
        each = jnp.concatenate([group.mask for group in steps], axis=2).astype(bool).reshape(batch, -1)
        real = jnp.concatenate([*(group.mask.astype(bool) for group in prefix), each], axis=1)
        mask = jnp.asarray(rules)[None, None] & real[:, None, None, :]
        self.sow("intermediates", "attention_mask", mask)
        return mask


def _cut(
    out: Float[Array, "batch length width"],
    prefix: Sequence[NamedGroup],
    steps: Sequence[NamedGroup],
    each: tuple[int, ...],
) -> dict[str, TokenGroup]:
    groups: dict[str, TokenGroup] = {}
    start = 0
    for group in prefix:
        length = group.tokens.shape[1]
        groups[group.name] = TokenGroup(out[:, start : start + length], group.mask)
        start += length
    by_step = out[:, start:].reshape(each)
    start = 0
    for group in steps:
        length = group.tokens.shape[2]
        groups[group.name] = TokenGroup(by_step[:, :, start : start + length], group.mask)
        start += length
    return groups


class MAPHead(nn.Module):
    """Multi-head attention pooling (Lee et al., "Set Transformer", 2019): [..., n, D] -> [..., probes, D]."""

    num_heads: int = 8
    dropout_rate: float = 0.0
    probes: int = 1

    @nn.compact
    def __call__(self, group: TokenGroup, train: bool) -> Float[Array, "*lead {self.probes} width"]:
        """Pool the real tokens of a group with every learned probe."""
        *lead, length, width = group.tokens.shape
        tokens = group.tokens.reshape(-1, length, width)
        mask = group.mask.astype(bool).reshape(-1, 1, 1, length)
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, self.probes, width))
        attention = nn.MultiHeadDotProductAttention(
            num_heads=self.num_heads,
            kernel_init=nn.initializers.xavier_uniform(),
            name="MultiHeadDotProductAttention_0",
        )
        mask = jnp.broadcast_to(mask, (tokens.shape[0], 1, self.probes, length))
        pooled = attention(jnp.broadcast_to(probe, (tokens.shape[0], self.probes, width)), tokens, mask=mask)
        normed = nn.LayerNorm(name="LayerNorm_0")(pooled)
        pooled = pooled + MlpBlock(4 * width, self.dropout_rate, name="MlpBlock_0")(normed, train)
        return pooled.reshape(*lead, self.probes, width)
