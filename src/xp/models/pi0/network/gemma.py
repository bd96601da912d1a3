"""Gemma (Gemma Team 2024) with two experts: each token has the weights of its expert, and all attend to each other.

Letters: B batch, T tokens of all experts asked, S tokens attended to, N heads, K heads of keys, H width of a head, L
layers. An expert's weights have the names of the first one with `_1` behind. Norms, rotations and softmax are computed
in float32, the rest in the type of the tokens.
"""

from collections.abc import Sequence
from types import EllipsisType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from xp.models.pi0.network.layers import Dense, Stack, run_stack, weight
from xp.models.pi0.network.sizes import ExpertSizes

_EPSILON = 1e-6
_MASKED = -2.3819763e38
"""The logit of what is not attended to, near the lowest float32: a row without anything gets equal shares."""
_LONGEST_WAVE = 10_000.0
SUFFIXES = ("", "_1")
"""What follows the names of each expert's weights."""

type Tokens = Sequence[Float[Array, "batch _token _width"] | None]
"""The tokens of each expert; None for one that is not asked."""
type Conditions = Sequence[Float[Array, "batch ... _width"] | None]
"""What modulates the norms of each expert (adaRMS), all tokens alike or each token; None where nothing does."""


class Cache(NamedTuple):
    """Keys and values of tokens that were computed before, [L, B, S, K, H]."""

    keys: Float[Array, "layers batch token kv_heads head_dim"]
    values: Float[Array, "layers batch token kv_heads head_dim"]


class Norm(nnx.Module):
    """Division by the root of the mean square (Zhang & Sennrich 2019), then a factor 1 + scale."""

    def __init__(self, stack: Stack, width: int) -> None:
        self.scale = weight(*stack, width)

    def __call__(
        self, x: Float[Array, "batch token width"], condition: None = None
    ) -> tuple[Float[Array, "batch token width"], None]:
        """The normalised tokens; nothing gates what is added to them."""
        return (_unit(x) * (1 + self.scale[...])).astype(x.dtype), None


class AdaptiveNorm(nnx.Module):
    """The same with factor, shift and gate from a condition (adaRMS, after Peebles & Xie 2023's adaptive norms)."""

    def __init__(self, stack: Stack, width: int) -> None:
        self.Dense_0 = Dense(stack, width, 3 * width)

    def __call__(
        self, x: Float[Array, "batch token width"], condition: Float[Array, "batch *each width"]
    ) -> tuple[Float[Array, "batch token width"], Float[Array, " batch #token width"]]:
        """The normalised tokens, and the gate of what is added to them."""
        given = condition if condition.ndim == 3 else condition[:, None]
        factor, shift, gate = jnp.split(self.Dense_0(given, x.dtype), 3, axis=-1)
        return (_unit(x) * (1 + factor) + shift).astype(x.dtype), gate


def _unit(x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
    """Tokens of mean square 1, float32."""
    variance = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(variance + _EPSILON)


def _all_gated(tokens: Tokens, added: Tokens, gates: Sequence[Float[Array, "batch _gates _width"] | None]) -> Tokens:
    """What was computed added to the tokens of each expert, through its gate where there is one."""
    return [
        None if x is None or more is None else x + more if gate is None else x + more * gate
        for x, more, gate in zip(tokens, added, gates)
    ]


def rotated(
    x: Float[Array, "batch token heads head_dim"], positions: Int[Array, "batch token"]
) -> Float[Array, "batch token heads head_dim"]:
    """Rotary position embedding (Su et al. 2021) on the two halves of each head."""
    half = x.shape[-1] // 2
    waves = _LONGEST_WAVE ** ((2.0 / x.shape[-1]) * jnp.arange(half, dtype=jnp.float32))
    angles = (positions[..., None] / waves)[..., None, :]
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


class Einsum(nnx.Module):
    """A weight `w` of several axes, and a low-rank update beside it where there is one (Hu et al. 2022).

    An update is a @ b over the last two axes. openpi's einsum of the weight that joins heads leaves out their axis
    between the two, so there the update is A_n times the sum of all B_m; checkpoints are trained so, and it is kept.
    """

    def __init__(self, *shape: int, rank: int | None, scale: float) -> None:
        self.w = weight(*shape)
        self.has_update, self.scale = rank is not None, scale
        if rank is not None:
            self.lora_a, self.lora_b = weight(*shape[:-1], rank), weight(*shape[:-2], rank, shape[-1])

    def __call__(self, rule: str, first: str, second: str, x: Array) -> Array:
        """The product by `rule`, the update by `first` and `second`; in the type of `x`."""
        found = jnp.einsum(rule, x, self.w[...].astype(x.dtype))
        if not self.has_update:
            return found
        low = jnp.einsum(first, x, self.lora_a[...].astype(x.dtype))
        return found + jnp.einsum(second, low, self.lora_b[...].astype(x.dtype)) * self.scale


class Attention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023) of the tokens of all experts together."""

    def __init__(self, stack: Stack, experts: Sequence[ExpertSizes]) -> None:
        for suffix, sizes in zip(SUFFIXES, experts):
            width, heads, kv_heads, head_dim = sizes.width, sizes.heads, sizes.kv_heads, sizes.head_dim
            shapes = {
                "q_einsum": (heads, width, head_dim),
                "kv_einsum": (2, kv_heads, width, head_dim),
                "attn_vec_einsum": (heads, head_dim, width),
            }
            for name, shape in shapes.items():
                made = Einsum(*stack, *shape, rank=sizes.lora_rank, scale=sizes.lora_scale)
                setattr(self, f"{name}{suffix}", made)

    def __call__(
        self,
        tokens: Tokens,
        positions: Int[Array, "batch token"],
        mask: Bool[Array, "batch token attended"],
        past: Cache | None,
    ) -> tuple[Tokens, Cache]:
        """What the tokens of each expert get, and the keys and values of all; `past` are those of earlier tokens."""
        found = [self._projected(x, suffix) for x, suffix in zip(tokens, SUFFIXES) if x is not None]
        query, key, value = (jnp.concatenate(parts, axis=1) for parts in zip(*found))
        query = rotated(query, positions) * query.shape[-1] ** -0.5
        key = rotated(key, positions)
        if past is not None:
            key = jnp.concatenate([past.keys.astype(key.dtype), key], axis=1)
            value = jnp.concatenate([past.values.astype(value.dtype), value], axis=1)
        mixed = _attend(query, key, value, mask)
        return self._joined(mixed, tokens), Cache(key, value)

    def _projected(self, x: Array, suffix: str) -> tuple[Array, Array, Array]:
        to_query, to_both = getattr(self, f"q_einsum{suffix}"), getattr(self, f"kv_einsum{suffix}")
        query = to_query("btd,ndh->btnh", "btd,ndr->btnr", "btnr,nrh->btnh", x)
        key, value = to_both("bsd,ckdh->cbskh", "bsd,ckdr->cbskr", "cbskr,ckrh->cbskh", x)
        return query, key, value

    def _joined(self, mixed: Array, tokens: Tokens) -> Tokens:
        out, start = [], 0
        for x, suffix in zip(tokens, SUFFIXES):
            if x is None:
                out.append(None)
                continue
            part = mixed[:, start : start + x.shape[1]]
            join = getattr(self, f"attn_vec_einsum{suffix}")
            out.append(join("btnh,nhd->btd", "btnh,nhr->btr", "btr,nrd->btd", part))
            start += x.shape[1]
        return out


def _attend(
    query: Float[Array, "batch token heads head_dim"],
    key: Float[Array, "batch attended kv_heads head_dim"],
    value: Float[Array, "batch attended kv_heads head_dim"],
    mask: Bool[Array, "batch token attended"],
) -> Float[Array, "batch token heads head_dim"]:
    """Softmax attention, logits in float32; consecutive heads of queries share one of keys."""
    batch, count, heads, head_dim = query.shape
    grouped = query.reshape(batch, count, key.shape[2], -1, head_dim)
    logits = jnp.einsum("btkgh,bskh->bkgts", grouped, key, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None, None], logits, _MASKED)
    shares = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", shares, value).reshape(batch, count, heads, head_dim)


class Mlp(nnx.Module):
    """A gated MLP (Shazeer 2020) with the tanh approximation of gelu; `gating_einsum` is [gate and value, in, out]."""

    def __init__(self, stack: Stack, sizes: ExpertSizes) -> None:
        self.gating_einsum = weight(*stack, 2, sizes.width, sizes.mlp)
        self.linear = weight(*stack, sizes.mlp, sizes.width)
        self.has_update = sizes.lora_rank is not None
        if sizes.lora_rank is not None:
            rank = sizes.lora_rank
            self.gating_einsum_lora_a = weight(*stack, 2, sizes.width, rank)
            self.gating_einsum_lora_b = weight(*stack, 2, rank, sizes.mlp)
            self.linear_lora_a = weight(*stack, sizes.mlp, rank)
            self.linear_lora_b = weight(*stack, rank, sizes.width)

    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        """Each token on its own."""
        gate, value = (self._product(x, "gating_einsum", index) for index in (0, 1))
        return self._product(jax.nn.gelu(gate, approximate=True) * value, "linear", ...)

    def _product(self, x: Array, name: str, index: int | EllipsisType) -> Array:
        """X times one matrix of a weight, and times its low-rank update."""
        found = jnp.dot(x, getattr(self, name)[index].astype(x.dtype))
        if not self.has_update:
            return found
        a, b = (getattr(self, f"{name}_lora_{half}")[index].astype(x.dtype) for half in "ab")
        return found + jnp.dot(jnp.dot(x, a), b)


class Layer(nnx.Module):
    """Attention over all experts and an MLP each, normalised before and added."""

    def __init__(self, stack: Stack, experts: Sequence[ExpertSizes], adaptive: Sequence[bool]) -> None:
        self.attn = Attention(stack, experts)
        for suffix, sizes, is_adaptive in zip(SUFFIXES, experts, adaptive):
            norm = AdaptiveNorm if is_adaptive else Norm
            setattr(self, f"pre_attention_norm{suffix}", norm(stack, sizes.width))
            setattr(self, f"pre_ffw_norm{suffix}", norm(stack, sizes.width))
            setattr(self, f"mlp{suffix}", Mlp(stack, sizes))

    def __call__(
        self,
        tokens: Tokens,
        conditions: Conditions,
        positions: Int[Array, "batch token"],
        mask: Bool[Array, "batch token attended"],
        past: Cache | None,
    ) -> tuple[Tokens, Cache]:
        """The tokens after this layer, and its keys and values."""
        normed, gates = apply_norms(self, "pre_attention_norm", tokens, conditions)
        mixed, cache = self.attn(normed, positions, mask, past)
        tokens = _all_gated(tokens, mixed, gates)
        normed, gates = apply_norms(self, "pre_ffw_norm", tokens, conditions)
        hidden = [None if x is None else getattr(self, f"mlp{suffix}")(x) for x, suffix in zip(normed, SUFFIXES)]
        return _all_gated(tokens, hidden, gates), cache


def apply_norms(owner: nnx.Module, name: str, tokens: Tokens, conditions: Conditions) -> tuple[list, list]:
    """Each expert's norm of a name on its tokens: the normalised tokens, and the gates."""
    found = [
        (None, None) if x is None else getattr(owner, f"{name}{suffix}")(x, condition)
        for x, condition, suffix in zip(tokens, conditions, SUFFIXES)
    ]
    return [x for x, _ in found], [gate for _, gate in found]


class Embedder(nnx.Module):
    """A vector for each piece of text."""

    def __init__(self, vocabulary: int, width: int) -> None:
        self.input_embedding = weight(vocabulary, width)


class Gemma(nnx.Module):
    """All layers, stacked, the last norms and the table of the vocabulary."""

    def __init__(self, vocabulary: int, experts: Sequence[ExpertSizes], adaptive: Sequence[bool]) -> None:
        assert len({(e.depth, e.heads, e.kv_heads, e.head_dim) for e in experts}) == 1, "experts attend together"
        self.embedder = Embedder(vocabulary, experts[0].width)
        self.layers = Layer((experts[0].depth,), experts, adaptive)
        for suffix, sizes, is_adaptive in zip(SUFFIXES, experts, adaptive):
            setattr(self, f"final_norm{suffix}", (AdaptiveNorm if is_adaptive else Norm)((), sizes.width))

    def embed(self, ids: Int[Array, "batch token"], dtype: jnp.dtype) -> Float[Array, "batch token width"]:
        """Tokens of text, scaled by the root of their width in the type of the table."""
        found = self.embedder.input_embedding[...][ids]
        return (found * jnp.sqrt(found.shape[-1]).astype(found.dtype)).astype(dtype)

    def __call__(
        self,
        tokens: Tokens,
        conditions: Conditions,
        positions: Int[Array, "batch token"],
        mask: Bool[Array, "batch token attended"],
        past: Cache | None = None,
        *,
        dtype: jnp.dtype,
        remat: bool = False,
    ) -> tuple[Tokens, Cache]:
        """The tokens of each expert after all layers and its last norm, and the keys and values of every layer.

        Args:
            tokens: of each expert; None for one that is not asked.
            conditions: of each expert whose norms are adaptive, else None.
            positions: of the tokens of all experts, in their order.
            mask: which of the tokens, those of `past` first, each of them attends to.
            past: keys and values of earlier tokens.
            dtype: what is computed in.
            remat: see `run_stack`.
        """
        given = [None if x is None else x.astype(dtype) for x in tokens]

        def layer(module: nnx.Module, carry: list, past: Cache | None) -> tuple[list, Cache]:
            assert isinstance(module, Layer)
            after, cache = module(carry, conditions, positions, mask, past)
            return list(after), cache

        after, cache = run_stack(self.layers, layer, given, past, remat=remat)
        normed, _ = apply_norms(self, "final_norm", after, conditions)
        return normed, cache


def attention_mask(
    valid: Bool[Array, "batch token"], begins: Bool[Array, "#batch token"]
) -> Bool[Array, "batch token token"]:
    """Who attends to whom where tokens come in blocks: to every valid token of its own block and of earlier ones.

    Args:
        valid: tokens that are there.
        begins: tokens that begin a block; earlier tokens do not attend to them and what follows.
    """
    block = jnp.broadcast_to(jnp.cumsum(begins, axis=1), valid.shape)
    return (block[:, None, :] <= block[:, :, None]) & valid[:, None, :] & valid[:, :, None]
