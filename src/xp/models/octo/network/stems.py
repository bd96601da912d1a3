"""Image encoders: weight-standardised convolution stems and the plain patch embedding."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Num


def normalize_image(image: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Map 0..255 to -1..1, keeping a half-precision input's dtype (0..255 are exact in bfloat16)."""
    floating = image if jnp.issubdtype(image.dtype, jnp.floating) else image.astype(jnp.float32)
    return floating / 127.5 - 1.0


def standardize(
    kernel: Float[Array, "height width channels features"], epsilon: float = 1e-5
) -> Float[Array, "height width channels features"]:
    """Zero mean and unit population deviation for each output channel, over [height, width, input channel].

    Weight standardisation of Qiao et al. 2019, with Octo's epsilon added to the deviation.
    """
    centred = kernel - jnp.mean(kernel, axis=(0, 1, 2))
    return centred / (jnp.std(centred, axis=(0, 1, 2)) + epsilon)


class StdConv(nn.Module):
    """A convolution [B, h, w, C] -> [B, h', w', features] whose kernel is standardised at every read."""

    features: int
    kernel_size: int
    stride: int
    padding: int

    @nn.compact
    def __call__(
        self, image: Num[Array, "batch _height _width _channels"]
    ) -> Float[Array, "batch _rows _columns {self.features}"]:
        """Convolve with explicit padding on all four sides."""
        shape = (self.kernel_size, self.kernel_size, image.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        out = lax.conv_general_dilated(
            image.astype(kernel.dtype),
            standardize(kernel),
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out + bias


class SmallStem(nn.Module):
    """Four strided convolutions and a patch projection: [B, h, w, C] uint8 -> [B, h/p, w/p, num_features].

    The convolution stem of Xiao et al., "Early Convolutions Help Transformers See Better", 2021, as Octo sizes it.
    `num_groups` is 32 in every released Octo; narrow stems use fewer (it must divide every entry of `features`).
    """

    patch_size: int = 32
    kernel_sizes: Sequence[int] = (3, 3, 3, 3)
    strides: Sequence[int] = (2, 2, 2, 2)
    features: Sequence[int] = (32, 96, 192, 384)
    padding: Sequence[int] = (1, 1, 1, 1)
    num_features: int = 512
    num_groups: int = 32

    @nn.compact
    def __call__(
        self, image: Num[Array, "batch _height _width _channels"]
    ) -> Float[Array, "batch _rows _columns {self.num_features}"]:
        """Encode a batch of images (goal images already stacked on the channels)."""
        x = normalize_image(image)
        layers = zip(self.features, self.kernel_sizes, self.strides, self.padding, strict=True)
        for index, (features, kernel_size, stride, padding) in enumerate(layers):
            x = StdConv(features, kernel_size, stride, padding, name=f"StdConv_{index}")(x)
            x = nn.GroupNorm(self.num_groups, name=f"GroupNorm_{index}")(x)
            x = nn.relu(x)
        patch = (self.patch_size // 16, self.patch_size // 16)
        return nn.Conv(self.num_features, patch, strides=patch, padding="VALID", name="embedding")(x)


class PatchEncoder(nn.Module):
    """One convolution over disjoint patches (a vision transformer's stem): [B, h, w, C] -> [B, h/p, w/p, features]."""

    patch_size: int = 32
    num_features: int = 512

    @nn.compact
    def __call__(
        self, image: Num[Array, "batch _height _width _channels"]
    ) -> Float[Array, "batch _rows _columns {self.num_features}"]:
        """Encode a batch of images (goal images already stacked on the channels)."""
        patch = (self.patch_size, self.patch_size)
        x = normalize_image(image)
        return nn.Conv(self.num_features, patch, strides=patch, padding="VALID", name="embedding")(x)


def expected_places(maps: Float[Array, "batch height width maps"]) -> Float[Array, "batch maps 2"]:
    """Spatial softmax: the mean place of each map, (x, y) in -1..1 from the top left."""
    batch, height, width, count = maps.shape
    weight = nn.softmax(maps.reshape(batch, height * width, count), axis=1)
    across = jnp.tile(jnp.linspace(-1, 1, width, dtype=maps.dtype), height)
    down = jnp.repeat(jnp.linspace(-1, 1, height, dtype=maps.dtype), width)
    return jnp.einsum("bpk,pc->bkc", weight, jnp.stack([across, down], axis=-1))


class KeypointStem(nn.Module):
    """Convolutions and a spatial softmax: [B, h, w, C] uint8 -> [B, 1, 1, 2 * num_features], one token an image.

    Each of `num_features` maps gives the expected place (x, y in -1..1) of what it responds to (Levine et al. 2016,
    "End-to-End Training of Deep Visuomotor Policies"). Where things are is then in the numbers themselves, which a
    small model learns from a few thousand images; patches must learn it through attention. `kernel_sizes` are those of
    the convolutions, 3 each by default; most of the time goes into the first ones, and a stride of 4 cuts it.
    """

    features: Sequence[int] = (16, 32, 32)
    strides: Sequence[int] = (2, 2, 1)
    kernel_sizes: Sequence[int] | None = None
    num_features: int = 32
    num_groups: int = 8

    @nn.compact
    def __call__(
        self, image: Num[Array, "batch _height _width _channels"]
    ) -> Float[Array, "batch 1 1 {2*self.num_features}"]:
        """Encode a batch of images (goal images already stacked on the channels)."""
        x = normalize_image(image)
        layers = zip(self.features, self.kernel_sizes or [3] * len(self.strides), self.strides, strict=True)
        for index, (features, size, stride) in enumerate(layers):
            x = StdConv(features, size, stride, (size - stride + 1) // 2, name=f"StdConv_{index}")(x)
            x = nn.relu(nn.GroupNorm(self.num_groups, name=f"GroupNorm_{index}")(x))
        maps = nn.Conv(self.num_features, (1, 1), name="embedding")(x)
        return expected_places(maps).reshape(-1, 1, 1, 2 * self.num_features)
