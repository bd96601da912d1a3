"""Octo's second diffusion head: DDPM over the chunk with a one-dimensional U-Net (Chi et al. 2023)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from xp.models.octo.heads.base import Embedding, Groups
from xp.models.octo.heads.denoising import Carry, DenoisingHead, Time, Used, cosine_betas
from xp.models.octo.heads.unet import ConditionalUnet1D
from xp.models.octo.network.transformer import MAPHead

VARIANCES = ("fixed_large", "fixed_small")


class UNetDDPMActionHead(DenoisingHead):
    """Denoise a chunk in `timesteps` steps; training actions are clipped to +-max_action (normalised units).

    The released class runs with windows of one step and without pooling only (its default `use_map` is a tuple, its
    loss takes its masks in the wrong order, its sampler returns the whole window). For a window of one step this head
    computes what that one computes; pooling, longer windows and several samples work here too. A chunk whose length is
    no multiple of what the levels halve is filled up with zeros inside the network.
    """

    use_map: bool = False
    flatten_tokens: bool = False
    timesteps: int = 100
    max_action: float = 1.0
    clip_sample: float | None = None
    variance_type: str = "fixed_large"
    down_features: Sequence[int] = (256, 512, 1024)
    time_features: int = 128

    def setup(self) -> None:
        """Make the U-Net, the schedule and the pooling (materialised only where it is used)."""
        self.map_head = MAPHead(dropout_rate=self.pool_dropout)
        self.action_proj = nn.Dense(self.action_dim)
        self.model = ConditionalUnet1D(tuple(self.down_features), kernel_size=5, time_features=self.time_features)
        self.alphas = 1 - cosine_betas(self.timesteps)
        self.alpha_hats = jnp.cumprod(self.alphas)

    def embedding(self, groups: Groups, train: bool) -> Embedding:
        """What the noise is predicted from: tokens pooled, side by side (`flatten_tokens`) or averaged."""
        tokens = groups[self.readout_key].tokens
        if self.flatten_tokens and not self.use_map:
            return tokens.reshape(*tokens.shape[:2], -1)
        return self.pool(groups, self.map_head, train)

    @property
    def count(self) -> int:
        """How many denoising steps."""
        return self.timesteps

    @property
    def form(self) -> tuple[int, ...]:
        """A chunk is a sequence of actions."""
        return (self.action_horizon, self.action_dim)

    def noise_in(
        self, embedding: Embedding, noisy: Float[Array, "*draws batch history horizon action"], time: Time, train: bool
    ) -> Float[Array, "*draws batch history horizon action"]:
        """The noise in `noisy` at `time`, float32; the U-Net has no dropout."""
        stride = 2 ** (len(self.down_features) - 1)
        missing = -noisy.shape[-2] % stride
        filled = jnp.pad(noisy.astype(embedding.dtype), [*[(0, 0)] * (noisy.ndim - 2), (0, missing), (0, 0)])
        embedding = jnp.broadcast_to(embedding, (*noisy.shape[:-2], embedding.shape[-1]))
        features = self.model(embedding, filled, time)[..., : noisy.shape[-2], :]
        return self.action_proj(features).astype(jnp.float32)

    def denoise(self, embedding: Embedding, used: Used, carry: Carry, time: Int[Array, ""]) -> Carry:
        """One ancestral step: the posterior mean of Ho et al. 2020 (equations 6 and 7) through the predicted x_0."""
        chunk, rng = carry
        alpha, kept = self.alphas[time], self.alpha_hats[time]
        before = jnp.where(time > 0, self.alpha_hats[time - 1], 1.0)
        noise = self.noise_in(embedding, chunk, jnp.broadcast_to(time, (*chunk.shape[:-2], 1)), False)
        clean = (chunk - jnp.sqrt(1 - kept) * noise) / jnp.sqrt(kept)
        if self.clip_sample is not None:
            clean = jnp.clip(clean, -self.clip_sample, self.clip_sample)
        mean = jnp.sqrt(before) * (1 - alpha) / (1 - kept) * clean
        mean = mean + jnp.sqrt(alpha) * (1 - before) / (1 - kept) * chunk
        small = jnp.clip((1 - before) / (1 - kept) * (1 - alpha), 1e-20)
        variance = jnp.where(time > 0, 1 - alpha if self.variance_type == "fixed_large" else small, 0.0)
        rng, key = jax.random.split(rng)
        fresh = jax.random.normal(key, chunk.shape)
        return jnp.where(used, mean + jnp.sqrt(variance) * fresh, jnp.sqrt(1 - kept) * fresh), rng
