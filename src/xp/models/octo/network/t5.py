"""The T5 encoder (Raffel et al. 2020, version 1.0: relu, not gated) natively in Flax.

Parameter names are those of the Hugging Face Flax model inside Octo's checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from xp.models.octo.io.matching_weights import HasShape

Tokens = Float[Array, "batch length width"]
Mask = Bool[Array, "batch length"]
Bias = Float[Array, "1 heads length length"]
"""What is added to the attention's logits, by relative position: the same for every sample and every block."""


@dataclass(frozen=True)
class T5Sizes:
    """Sizes of a T5 encoder; the defaults are t5-base's."""

    vocabulary: int = 32128
    width: int = 768
    head_width: int = 64
    hidden: int = 3072
    layers: int = 12
    heads: int = 12
    buckets: int = 32


KNOWN_T5 = {
    "t5-small": T5Sizes(width=512, hidden=2048, layers=6, heads=8),
    "t5-base": T5Sizes(),
    "t5-large": T5Sizes(width=1024, hidden=4096, layers=24, heads=16),
}


def sizes_from_weights(flat: Mapping[str, HasShape]) -> T5Sizes | None:
    """Read the sizes off an encoder's weights (paths below `hf_model/`, joined by '/'); None where they lack one.

    A config.json names only "t5-base"; what was really used shows in the arrays.
    """
    block = "encoder/block/0/layer"
    needed = ("shared/embedding", f"{block}/0/SelfAttention/relative_attention_bias/embedding")
    needed += (f"{block}/0/SelfAttention/q/kernel", f"{block}/1/DenseReluDense/wi/kernel")
    if any(name not in flat for name in needed):
        return None
    shared, bias, query, hidden = (flat[name].shape for name in needed)
    layers = {path.split("/")[2] for path in flat if path.startswith("encoder/block/")}
    return T5Sizes(shared[0], shared[1], query[1] // bias[1], hidden[1], len(layers), bias[1], bias[0])


def relative_buckets(length: int, buckets: int = 32, max_distance: int = 128) -> Int[np.ndarray, "{length} {length}"]:
    """Bucket of every (query, key) distance, half of the buckets for each direction.

    Half of each direction's buckets are exact distances, the rest grow logarithmically up to `max_distance`
    (T5 paper, section 2.1).
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    far = np.abs(distance)
    scale = np.log(np.maximum(far, 1).astype(np.float32) / exact) / np.log(np.float32(max_distance / exact))
    coarse = np.minimum(exact + (scale * (half - exact)).astype(np.int64), half - 1)
    return np.where(far < exact, far, coarse) + half * (distance > 0)


class RootMeanSquareNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) * weight, computed in float32."""

    @nn.compact
    def __call__(self, x: Float[Array, "*lead width"]) -> Float[Array, "*lead width"]:
        """Normalise the last axis."""
        weight = self.param("weight", nn.initializers.ones_init(), (x.shape[-1],))
        wide = x.astype(jnp.float32)
        return weight * (wide / jnp.sqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-6)).astype(weight.dtype)


class SelfAttention(nn.Module):
    """T5 attention: no biases, no 1/sqrt(d), position bias added to the logits; block 0 owns the bias table."""

    sizes: T5Sizes
    owns_bias: bool

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask, bias: Bias | None) -> tuple[Tokens, Bias]:
        """Attend over x where the mask is True; returns the output and the bias."""
        sizes, inner = self.sizes, self.sizes.heads * self.sizes.head_width
        query, key, value = (
            nn.Dense(inner, use_bias=False, name=name)(x).reshape(*x.shape[:2], sizes.heads, sizes.head_width)
            for name in ("q", "k", "v")
        )
        if self.owns_bias:
            table = nn.Embed(
                sizes.buckets,
                sizes.heads,
                embedding_init=nn.initializers.normal(0.02),
                name="relative_attention_bias",
            )
            bias = table(jnp.asarray(relative_buckets(x.shape[1], sizes.buckets))).transpose(2, 0, 1)[None]
        assert bias is not None
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) + bias
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(logits), value).reshape(*x.shape[:2], inner)
        return nn.Dense(x.shape[-1], use_bias=False, name="o")(mixed), bias


class AttentionLayer(nn.Module):
    """Norm, attention, residual."""

    sizes: T5Sizes
    owns_bias: bool

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask, bias: Bias | None) -> tuple[Tokens, Bias]:
        """Return the new tokens and the position bias."""
        normed = RootMeanSquareNorm(name="layer_norm")(x)
        mixed, bias = SelfAttention(self.sizes, self.owns_bias, name="SelfAttention")(normed, mask, bias)
        return x + mixed, bias


class DenseReluDense(nn.Module):
    """Two dense layers without biases around a relu."""

    hidden: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Transform every token by itself."""
        inner = nn.relu(nn.Dense(self.hidden, use_bias=False, name="wi")(x))
        return nn.Dense(x.shape[-1], use_bias=False, name="wo")(inner)


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward, residual."""

    sizes: T5Sizes

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Transform every token by itself."""
        normed = RootMeanSquareNorm(name="layer_norm")(x)
        return x + DenseReluDense(self.sizes.hidden, name="DenseReluDense")(normed)


class Layers(nn.Module):
    """The two layers of one block, named "0" and "1"."""

    sizes: T5Sizes
    owns_bias: bool

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask, bias: Bias | None) -> tuple[Tokens, Bias]:
        """Attention, then feed-forward."""
        x, bias = AttentionLayer(self.sizes, self.owns_bias, name="0")(x, mask, bias)
        return FeedForwardLayer(self.sizes, name="1")(x), bias


class Block(nn.Module):
    """One block; its layers sit under the name "layer"."""

    sizes: T5Sizes
    owns_bias: bool

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask, bias: Bias | None) -> tuple[Tokens, Bias]:
        """Return the new tokens and the position bias shared by all blocks."""
        return Layers(self.sizes, self.owns_bias, name="layer")(x, mask, bias)


class Blocks(nn.Module):
    """All blocks, named by their number."""

    sizes: T5Sizes

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask) -> Tokens:
        """Run the blocks; the first one makes the position bias."""
        bias = None
        for index in range(self.sizes.layers):
            x, bias = Block(self.sizes, index == 0, name=str(index))(x, mask, bias)
        return x


class Stack(nn.Module):
    """Blocks and the final norm."""

    sizes: T5Sizes

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask) -> Tokens:
        """Map embedded tokens to encoded ones."""
        return RootMeanSquareNorm(name="final_layer_norm")(Blocks(self.sizes, name="block")(x, mask))


class T5Encoder(nn.Module):
    """Token ids to features."""

    sizes: T5Sizes

    @nn.compact
    def __call__(
        self, input_ids: Int[Array, "batch length"], attention_mask: Int[Array, "batch length"]
    ) -> Float[Array, "batch length {self.sizes.width}"]:
        """Encode; padding (mask 0) is not attended to, though its own outputs are still returned."""
        embedding = nn.Embed(
            self.sizes.vocabulary, self.sizes.width, embedding_init=nn.initializers.normal(1.0), name="shared"
        )
        return Stack(self.sizes, name="encoder")(embedding(input_ids), attention_mask > 0)
