"""Octo's diffusion head: DDPM over the flattened chunk (Ho et al. 2020), conditioned on the pooled readout."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from xp.models.octo.heads.base import ActionHead, Groups, Parts, masked_mean
from xp.models.octo.transformer import MAPHead

_XAVIER = nn.initializers.xavier_uniform()


def cosine_betas(steps: int, offset: float = 0.008) -> jax.Array:
    """Noise variances of the cosine schedule (Nichol and Dhariwal 2021), clipped to 0.999: float32 [steps]."""
    at = jnp.linspace(0, steps, steps + 1) / steps
    kept = jnp.cos((at + offset) / (1 + offset) * jnp.pi * 0.5) ** 2
    kept = kept / kept[0]
    return jnp.clip(1 - kept[1:] / kept[:-1], 0, 0.999)


class FourierFeatures(nn.Module):
    """Learned frequencies: time [..., 1] -> [cos, sin](2 pi x w^T) [..., size]."""

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Embed."""
        kernel = self.param("kernel", nn.initializers.normal(0.2), (self.size // 2, x.shape[-1]))
        phase = 2 * jnp.pi * x @ kernel.T
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


class MLP(nn.Module):
    """Dense layers with swish between them."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., D] to [..., widths[-1]]."""
        for index, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=_XAVIER, name=f"Dense_{index}")(x)
            x = nn.swish(x) if index + 1 < len(self.widths) else x
        return x


class MLPResNetBlock(nn.Module):
    """Dropout, norm, dense 4x, swish, dense, residual."""

    dropout_rate: float
    use_layer_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [..., D] to [..., D]."""
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
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [..., D] to [..., out]."""
        x = nn.Dense(self.hidden, kernel_init=_XAVIER, name="Dense_0")(x)
        for index in range(self.blocks):
            x = MLPResNetBlock(self.dropout_rate, self.use_layer_norm, name=f"MLPResNetBlock_{index}")(x, train)
        return nn.Dense(self.out, kernel_init=_XAVIER, name="Dense_1")(nn.swish(x))


class ScoreActor(nn.Module):
    """The noise in a chunk: embedding [..., D], noisy chunk [..., H*A] and time [..., 1] -> [..., H*A]."""

    out: int
    time_dim: int = 32
    blocks: int = 3
    hidden: int = 256
    dropout_rate: float = 0.0
    use_layer_norm: bool = True

    @nn.compact
    def __call__(self, embedding: jax.Array, noisy: jax.Array, time: jax.Array, train: bool) -> jax.Array:
        """Predict; leading sample axes of `noisy` and `time` broadcast over the embedding."""
        features = FourierFeatures(self.time_dim, name="time_preprocess")(time)
        condition = MLP((2 * self.time_dim, self.time_dim), name="cond_encoder")(features)
        embedding = jnp.broadcast_to(embedding, (*condition.shape[:-1], embedding.shape[-1]))
        joined = jnp.concatenate([condition, embedding, noisy], axis=-1)
        network = MLPResNet(
            self.blocks, self.hidden, self.out, self.dropout_rate, self.use_layer_norm, name="reverse_network"
        )
        return network(joined, train)


class DiffusionActionHead(ActionHead):
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

    takes_draws = True

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

    def __call__(
        self,
        groups: Groups,
        train: bool = False,
        time: jax.Array | None = None,
        noisy_actions: jax.Array | None = None,
    ) -> jax.Array:
        """Predicted noise [*S, B, T, H*A]; without time and chunk it is evaluated at zeros, which makes the weights."""
        embedding = self.pool(groups, self.map_head, train)
        if time is None or noisy_actions is None:
            time = jnp.zeros((*embedding.shape[:2], 1))
            noisy_actions = jnp.zeros((*embedding.shape[:2], self.action_horizon * self.action_dim))
        return self._noise(embedding, noisy_actions, time, train)

    def _noise(self, embedding: jax.Array, noisy: jax.Array, time: jax.Array, train: bool) -> jax.Array:
        cast = embedding.dtype
        return self.diffusion_model(embedding, noisy.astype(cast), time.astype(cast), train).astype(jnp.float32)

    def loss(
        self,
        groups: Groups,
        actions: jax.Array,
        real: jax.Array,
        action_mask: jax.Array,
        train: bool = True,
        noise: jax.Array | None = None,
        time: jax.Array | None = None,
    ) -> tuple[jax.Array, Parts]:
        """`action_dim` times the masked error of the predicted noise, at one random time for each step.

        Fixed draws `noise` [B, D, T, H, A] and `time` [B, D, T] in [0, 1) take the place of random ones; `time` becomes
        the step floor(time * diffusion_steps), which is uniform over the steps as in training.
        """
        flat = jnp.clip(actions.reshape(*actions.shape[:2], -1), -self.max_action, self.max_action)
        if noise is None or time is None:
            time, noise = self._drawn(flat)
        else:
            noise = jnp.moveaxis(noise, 1, 0).reshape(noise.shape[1], *flat.shape)
            time = jnp.floor(jnp.moveaxis(time, 1, 0) * self.diffusion_steps).astype(jnp.int32)[..., None]
        kept = self.alpha_hats[time]
        noisy = jnp.sqrt(kept) * flat[None] + jnp.sqrt(1 - kept) * noise
        error = self(groups, train, time, noisy) - noise
        mask = (action_mask & real[:, :, None, None]).reshape(flat.shape)[None]
        mse = masked_mean(error**2, mask) * self.action_dim
        loss = mse if self.loss_type == "mse" else masked_mean(jnp.abs(error), mask) * self.action_dim
        return loss, {"mse": mse}

    def _drawn(self, flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Random steps [S, B, T, 1] and noise [S, B, T, H*A]."""
        time_key, noise_key = jax.random.split(self.make_rng("dropout"))
        time = jax.random.randint(time_key, (self.n_diffusion_samples, *flat.shape[:2], 1), 0, self.diffusion_steps)
        return time, jax.random.normal(noise_key, (self.n_diffusion_samples, *flat.shape))

    def predict_action(
        self,
        groups: Groups,
        rng: jax.Array,
        *,
        sample_shape: tuple[int, ...] = (),
        embodiment_action_dim: int | None = None,
        **unused: Any,
    ) -> jax.Array:
        """Sample by ancestral DDPM steps; one pass through the transformer for any number of samples.

        Dimensions from `embodiment_action_dim` on are held at the noise level they had in training.
        """
        embedding = self.pool(groups, self.map_head, False)
        size = self.action_horizon * self.action_dim
        used = jnp.arange(size) % self.action_dim < (embodiment_action_dim or self.action_dim)
        rng, key = jax.random.split(rng)
        chunk = jax.random.normal(key, (*sample_shape, *embedding.shape[:2], size))
        steps = jnp.arange(self.diffusion_steps - 1, -1, -1)

        def denoise(head: "DiffusionActionHead", carry: tuple[jax.Array, jax.Array], time: jax.Array) -> tuple:
            return head._denoise(embedding, used, carry, time), None

        scan = nn.scan(denoise, variable_broadcast="params", split_rngs={"params": False})
        (chunk, _), _ = scan(self, (chunk, rng), steps)
        return self.chunk(chunk[..., -1, :])

    def _denoise(
        self, embedding: jax.Array, used: jax.Array, carry: tuple[jax.Array, jax.Array], time: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """One step of DDPM's algorithm 2, with the clip and the masked dimensions of Octo."""
        chunk, rng = carry
        alpha, kept, beta = self.alphas[time], self.alpha_hats[time], self.betas[time]
        noise = self._noise(embedding, chunk, jnp.broadcast_to(time, (*chunk.shape[:-1], 1)), False)
        chunk = 1 / jnp.sqrt(alpha) * (chunk - (1 - alpha) / jnp.sqrt(1 - kept) * noise)
        rng, key = jax.random.split(rng)
        fresh = jax.random.normal(key, chunk.shape)
        chunk = jnp.clip(chunk + (time > 0) * jnp.sqrt(beta) * fresh, -self.max_action, self.max_action)
        return jnp.where(used, chunk, jnp.sqrt(1 - kept) * fresh), rng
