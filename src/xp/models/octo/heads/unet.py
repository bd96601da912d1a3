"""The one-dimensional conditional U-Net of Diffusion Policy (Chi et al. 2023), as Octo sizes and names it."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Num

_XAVIER = nn.initializers.xavier_uniform()


def mish(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The activation x tanh(softplus(x)) (Misra 2019)."""
    return x * jnp.tanh(nn.softplus(x))


def sinusoids(time: Num[Array, "*lead 1"], features: int) -> Float[Array, "*lead {features//2*2}"]:
    """Time to [sin, cos] of half `features` geometric frequencies from 1 to 1/10000 (Vaswani et al. 2017)."""
    half = features // 2
    frequency = jnp.exp(jnp.arange(half) * (-jnp.log(10000) / (half - 1)))
    return jnp.concatenate([jnp.sin(time * frequency), jnp.cos(time * frequency)], axis=-1)


class Conv1dBlock(nn.Module):
    """Convolution over the chunk, group norm, mish: [..., H, C] -> [..., H, features]."""

    features: int
    kernel_size: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "*lead length _channels"]) -> Float[Array, "*lead length {self.features}"]:
        """Convolve, keeping the length."""
        half = self.kernel_size // 2
        x = nn.Conv(self.features, (self.kernel_size,), padding=[(half, half)], name="Conv_0")(x)
        # Statistics over the chunk alone; the original takes the window too, and trains with windows of one step only.
        return mish(nn.GroupNorm(self.groups, reduction_axes=(-2, -1), name="GroupNorm_0")(x))


class ConditionalBlock(nn.Module):
    """Two convolution blocks with a scale and shift from the condition between them, and a residual."""

    features: int
    kernel_size: int
    groups: int
    project: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*lead length _channels"], condition: Float[Array, "*lead _width"]
    ) -> Float[Array, "*lead length {self.features}"]:
        """Map under a condition."""
        inner = Conv1dBlock(self.features, self.kernel_size, self.groups, name="Conv1dBlock_0")(x)
        film = nn.Dense(2 * self.features, kernel_init=_XAVIER, name="Dense_0")(mish(condition))
        scale, shift = jnp.split(film[..., None, :], 2, axis=-1)
        inner = Conv1dBlock(self.features, self.kernel_size, self.groups, name="Conv1dBlock_1")(inner * scale + shift)
        return (nn.Conv(self.features, (1,), name="Conv_0")(x) if self.project else x) + inner


class Resize(nn.Module):
    """The length halved by a convolution of stride 2, or doubled by a transposed one."""

    features: int
    up: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*lead _length _channels"]) -> Float[Array, "*lead _other {self.features}"]:
        """Halve or double the length."""
        if self.up:
            return nn.ConvTranspose(self.features, (4,), strides=(2,), name="ConvTranspose_0")(x)
        return nn.Conv(self.features, (3,), strides=(2,), name="Conv_0")(x)


class ConditionalUnet1D(nn.Module):
    """Noisy chunk [..., H, A], embedding [..., D] and time [..., 1] to features [..., H, down_features[0]].

    The chunk is halved between levels: H must be a multiple of 2^(levels - 1).
    """

    down_features: Sequence[int] = (256, 512, 1024)
    mid_layers: int = 2
    kernel_size: int = 3
    groups: int = 8
    time_features: int = 256

    @nn.compact
    def __call__(
        self,
        embedding: Float[Array, "*lead _width"],
        chunk: Float[Array, "*lead horizon _action"],
        time: Num[Array, "*lead 1"],
    ) -> Float[Array, "*lead horizon {self.down_features[0]}"]:
        """Down, middle, up."""
        time = nn.Dense(4 * self.time_features, kernel_init=_XAVIER, name="Dense_0")(
            sinusoids(time, self.time_features).astype(embedding.dtype)
        )
        time = nn.Dense(self.time_features, kernel_init=_XAVIER, name="Dense_1")(mish(time))
        condition = jnp.concatenate([embedding, time], axis=-1)
        count = 0

        def block(
            x: Float[Array, "*lead length _channels"], features: int, project: bool = False
        ) -> Float[Array, "*lead length {features}"]:
            nonlocal count
            name = f"ConditionalResidualBlock1D_{count}"
            count += 1
            return ConditionalBlock(features, self.kernel_size, self.groups, project, name=name)(x, condition)

        x, seen = chunk, []
        for level, features in enumerate(self.down_features):
            x = block(block(x, features, project=True), features)
            if level:
                seen.append(x)
            if level + 1 < len(self.down_features):
                x = Resize(features, up=False, name=f"Downsample1d_{level}")(x)
        for _ in range(self.mid_layers):
            x = block(x, self.down_features[-1])
        for level, (features, beside) in enumerate(reversed(list(zip(self.down_features[:-1], seen, strict=True)))):
            x = jnp.concatenate([x, beside], axis=-1)
            x = block(block(x, features, project=True), features)
            x = Resize(features, up=True, name=f"Upsample1d_{level}")(x)
        return Conv1dBlock(self.down_features[0], self.kernel_size, self.groups, name="Conv1dBlock_0")(x)
