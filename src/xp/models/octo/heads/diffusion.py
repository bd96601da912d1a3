"""Octo's diffusion head: DDPM over the flattened chunk (Ho et al. 2020), conditioned on the pooled readout."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from xp.models.octo.heads.base import Embedding, Groups
from xp.models.octo.heads.denoising import Carry, DenoisingHead, Time, Used, cosine_betas
from xp.models.octo.network.transformer import MAPHead

Flat = Float[Array, "*draws batch history flat"]
"""A chunk as one vector of H*A numbers."""
_XAVIER = nn.initializers.xavier_uniform()


class FourierFeatures(nn.Module):
    """Learned frequencies: time [..., 1] -> [cos, sin](2 pi x w^T) [..., size]."""

    size: int

    @nn.compact
    def __call__(self, x: Num[Array, "*lead 1"]) -> Float[Array, "*lead {self.size//2*2}"]:
        """Embed."""
        kernel = self.param("kernel", nn.initializers.normal(0.2), (self.size // 2, x.shape[-1]))
        phase = 2 * jnp.pi * x @ kernel.T
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


class MLP(nn.Module):
    """Dense layers with swish between them."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, "*lead _width"]) -> Float[Array, "*lead {self.widths[-1]}"]:
        """Map."""
        for index, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=_XAVIER, name=f"Dense_{index}")(x)
            x = nn.swish(x) if index + 1 < len(self.widths) else x
        return x


class MLPResNetBlock(nn.Module):
    """Dropout, norm, dense 4x, swish, dense, residual."""

    dropout_rate: float
    use_layer_norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*lead width"], train: bool) -> Float[Array, "*lead width"]:
        """Map."""
        width = x.shape[-1]
        inner = nn.Dropout(self.dropout_rate, deterministic=not train)(x) if self.dropout_rate else x
        inner = nn.LayerNorm(name="LayerNorm_0")(inner) if self.use_layer_norm else inner
        inner = nn.swish(nn.Dense(4 * width, name="Dense_0")(inner))
        return x + nn.Dense(width, name="Dense_1")(inner)


class MLPResNet(nn.Module):
    """Dense in, residual blocks, swish, dense out."""

    blocks: int
    hidden: int
    out: int
    dropout_rate: float
    use_layer_norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*lead _width"], train: bool) -> Float[Array, "*lead {self.out}"]:
        """Map."""
        x = nn.Dense(self.hidden, kernel_init=_XAVIER, name="Dense_0")(x)
        for index in range(self.blocks):
            x = MLPResNetBlock(self.dropout_rate, self.use_layer_norm, name=f"MLPResNetBlock_{index}")(x, train)
        return nn.Dense(self.out, kernel_init=_XAVIER, name="Dense_1")(nn.swish(x))


class ScoreActor(nn.Module):
    """The noise in a flattened chunk, from it, its time and the embedding of the readouts."""

    out: int
    time_dim: int = 32
    blocks: int = 3
    hidden: int = 256
    dropout_rate: float = 0.0
    use_layer_norm: bool = True

    @nn.compact
    def __call__(
        self, embedding: Embedding, noisy: Flat, time: Time, train: bool
    ) -> Float[Array, "*draws batch history {self.out}"]:
        """Predict; leading sample axes of `noisy` and `time` broadcast over the embedding."""
        features = FourierFeatures(self.time_dim, name="time_preprocess")(time)
        condition = MLP((2 * self.time_dim, self.time_dim), name="cond_encoder")(features)
        embedding = jnp.broadcast_to(embedding, (*condition.shape[:-1], embedding.shape[-1]))
        joined = jnp.concatenate([condition, embedding, noisy], axis=-1)
        network = MLPResNet(
            self.blocks, self.hidden, self.out, self.dropout_rate, self.use_layer_norm, name="reverse_network"
        )
        return network(joined, train)


class DiffusionActionHead(DenoisingHead):
    """Denoise a chunk in `diffusion_steps` steps; actions are clipped to +-max_action (normalised units)."""

    use_map: bool = False
    max_action: float = 5.0
    loss_type: str = "mse"
    time_dim: int = 32
    num_blocks: int = 3
    dropout_rate: float = 0.0
    hidden_dim: int = 256
    use_layer_norm: bool = True
    diffusion_steps: int = 20
    n_diffusion_samples: int = 1

    def setup(self) -> None:
        """Make the score network, the schedule and the pooling (materialised only where it is used)."""
        self.map_head = MAPHead(dropout_rate=self.pool_dropout)
        self.diffusion_model = ScoreActor(
            self.action_horizon * self.action_dim,
            self.time_dim,
            self.num_blocks,
            self.hidden_dim,
            self.dropout_rate,
            self.use_layer_norm,
        )
        self.betas = cosine_betas(self.diffusion_steps)
        self.alphas = 1 - self.betas
        self.alpha_hats = jnp.cumprod(self.alphas)

    @property
    def count(self) -> int:
        """How many denoising steps."""
        return self.diffusion_steps

    @property
    def form(self) -> tuple[int, ...]:
        """A chunk is one flat vector."""
        return (self.action_horizon * self.action_dim,)

    def embedding(self, groups: Groups, train: bool) -> Embedding:
        """The pooled readout."""
        return self.pool(groups, self.map_head, train)

    def noise_in(self, embedding: Embedding, noisy: Flat, time: Time, train: bool) -> Flat:
        """The noise in `noisy` at `time`, float32."""
        cast = embedding.dtype
        return self.diffusion_model(embedding, noisy.astype(cast), time.astype(cast), train).astype(jnp.float32)

    def denoise(self, embedding: Embedding, used: Used, carry: Carry, time: Int[Array, ""]) -> Carry:
        """One step of DDPM's algorithm 2, with the clip and the masked dimensions of Octo."""
        chunk, rng = carry
        alpha, kept, beta = self.alphas[time], self.alpha_hats[time], self.betas[time]
        noise = self.noise_in(embedding, chunk, jnp.broadcast_to(time, (*chunk.shape[:-1], 1)), False)
        chunk = 1 / jnp.sqrt(alpha) * (chunk - (1 - alpha) / jnp.sqrt(1 - kept) * noise)
        rng, key = jax.random.split(rng)
        fresh = jax.random.normal(key, chunk.shape)
        chunk = jnp.clip(chunk + (time > 0) * jnp.sqrt(beta) * fresh, -self.max_action, self.max_action)
        return jnp.where(used, chunk, jnp.sqrt(1 - kept) * fresh), rng
