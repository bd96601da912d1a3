"""SigLIP's image encoder as big_vision writes it: one token a patch, no class token, no pooling.

Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training"; Dosovitskiy et al. 2021 for the transformer. Stem and
position embeddings are computed in float32, the rest in the type that is asked for.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from xp.models.pi0.network.layers import Dense, Stack, run_stack, weight
from xp.models.pi0.network.sizes import COLOURS, VisionSizes

_EPSILON = 1e-6
_STEM = jnp.float32


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016) with its statistics in float32."""

    def __init__(self, stack: Stack, width: int) -> None:
        self.scale, self.bias = weight(*stack, width), weight(*stack, width)

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        """Of the type of `x`."""
        wide = x.astype(jnp.float32)
        mean = wide.mean(-1, keepdims=True)
        variance = jnp.maximum(jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean), 0.0)
        factor = jax.lax.rsqrt(variance + _EPSILON) * self.scale[...]
        return ((wide - mean) * factor + self.bias[...]).astype(x.dtype)


class Projection(nnx.Module):
    """To heads: `kernel` [width, heads, head_dim]."""

    def __init__(self, stack: Stack, width: int, heads: int) -> None:
        self.kernel = weight(*stack, width, heads, width // heads)
        self.bias = weight(*stack, heads, width // heads)

    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token heads head_dim"]:
        """Queries, keys or values."""
        return jnp.einsum("btw,wnh->btnh", x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)


class Joining(nnx.Module):
    """From heads: `kernel` [heads, head_dim, width]."""

    def __init__(self, stack: Stack, width: int, heads: int) -> None:
        self.kernel = weight(*stack, heads, width // heads, width)
        self.bias = weight(*stack, width)

    def __call__(self, x: Float[Array, "batch token heads head_dim"]) -> Float[Array, "batch token width"]:
        """What the heads found, together."""
        return jnp.einsum("btnh,nhw->btw", x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)


class Attention(nnx.Module):
    """Every token attends to every token (Vaswani et al. 2017)."""

    def __init__(self, stack: Stack, width: int, heads: int) -> None:
        self.query = Projection(stack, width, heads)
        self.key = Projection(stack, width, heads)
        self.value = Projection(stack, width, heads)
        self.out = Joining(stack, width, heads)

    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        """Attention within each picture."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        query = query / jnp.sqrt(query.shape[-1]).astype(x.dtype)
        shares = jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", query, key)).astype(x.dtype)
        return self.out(jnp.einsum("bnqk,bknh->bqnh", shares, value))


class Mlp(nnx.Module):
    """Two dense layers around the tanh approximation of gelu (Hendrycks & Gimpel 2016)."""

    def __init__(self, stack: Stack, width: int, hidden: int) -> None:
        self.Dense_0 = Dense(stack, width, hidden)
        self.Dense_1 = Dense(stack, hidden, width)

    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        """Each token on its own."""
        return self.Dense_1(jax.nn.gelu(self.Dense_0(x, x.dtype), approximate=True), x.dtype)


class Block(nnx.Module):
    """A layer: attention and MLP, each normalised before and added."""

    def __init__(self, stack: Stack, sizes: VisionSizes) -> None:
        self.LayerNorm_0, self.LayerNorm_1 = LayerNorm(stack, sizes.width), LayerNorm(stack, sizes.width)
        self.MultiHeadDotProductAttention_0 = Attention(stack, sizes.width, sizes.heads)
        self.MlpBlock_0 = Mlp(stack, sizes.width, sizes.mlp)

    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        """The tokens after this layer."""
        x = x + self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x))
        return x + self.MlpBlock_0(self.LayerNorm_1(x))


class Encoder(nnx.Module):
    """All layers, stacked, and the last norm."""

    def __init__(self, sizes: VisionSizes) -> None:
        self.encoderblock = Block((sizes.depth,), sizes)
        self.encoder_norm = LayerNorm((), sizes.width)

    def __call__(self, x: Float[Array, "batch token width"], remat: bool = False) -> Float[Array, "batch token width"]:
        """The tokens after all layers."""
        x, _ = run_stack(self.encoderblock, lambda layer, x, _: (layer(x), None), x, None, remat=remat)
        return self.encoder_norm(x)


class Stem(nnx.Module):
    """A convolution that cuts the picture into patches."""

    def __init__(self, sizes: VisionSizes) -> None:
        self.kernel = weight(sizes.patch, sizes.patch, COLOURS, sizes.width)
        self.bias = weight(sizes.width)

    def __call__(self, pictures: Float[Array, "batch height width 3"]) -> Float[Array, "batch rows columns features"]:
        """A vector a patch, float32."""
        kernel = self.kernel[...].astype(_STEM)
        stride = kernel.shape[:2]
        found = jax.lax.conv_general_dilated(
            pictures.astype(_STEM), kernel, stride, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return found + self.bias[...].astype(_STEM)


class Siglip(nnx.Module):
    """Pictures to tokens of the language model's width."""

    def __init__(self, sizes: VisionSizes, outputs: int) -> None:
        self.embedding = Stem(sizes)
        self.pos_embedding = weight(1, sizes.tokens, sizes.width)
        self.Transformer = Encoder(sizes)
        self.head = Dense((), sizes.width, outputs)

    def __call__(
        self, pictures: Float[Array, "batch height width 3"], dtype: jnp.dtype, remat: bool = False
    ) -> Float[Array, "batch token outputs"]:
        """Tokens of pictures whose pixels are -1..1, in `dtype`."""
        patches = self.embedding(pictures)
        x = patches.reshape(len(patches), -1, patches.shape[-1]) + self.pos_embedding[...].astype(_STEM)
        return self.head(self.Transformer(x.astype(dtype), remat), dtype)
