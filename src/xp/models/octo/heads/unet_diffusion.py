"""Octo's second diffusion head: DDPM over the chunk with a one-dimensional U-Net (Chi et al. 2023)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from xp.models.octo.heads.base import ActionHead, Groups, Parts, masked_mean
from xp.models.octo.heads.diffusion import cosine_betas
from xp.models.octo.heads.unet import ConditionalUnet1D
from xp.models.octo.transformer import MAPHead

VARIANCES = ("fixed_large", "fixed_small")


class UNetDDPMActionHead(ActionHead):
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

    takes_draws = True

    def setup(self) -> None:
        """Make the U-Net, the schedule and the pooling (materialised only where it is used)."""
        self.map_head = MAPHead(dropout_rate=self.pool_dropout)
        self.action_proj = nn.Dense(self.action_dim)
        self.model = ConditionalUnet1D(tuple(self.down_features), kernel_size=5, time_features=self.time_features)
        self.alphas = 1 - cosine_betas(self.timesteps)
        self.alpha_hats = jnp.cumprod(self.alphas)

    def embedding(self, groups: Groups, train: bool) -> jax.Array:
        """What the noise is predicted from: tokens pooled, side by side (`flatten_tokens`) or averaged, [B, T, D]."""
        tokens = groups[self.readout_key].tokens
        if self.flatten_tokens and not self.use_map:
            return tokens.reshape(*tokens.shape[:2], -1)
        return self.pool(groups, self.map_head, train)

    def __call__(
        self,
        groups: Groups,
        train: bool = False,
        time: jax.Array | None = None,
        noisy_actions: jax.Array | None = None,
    ) -> jax.Array:
        """Predicted noise [*S, B, T, H, A]; without time and chunk it is that at zeros, which makes the weights."""
        embedding = self.embedding(groups, train)
        if time is None or noisy_actions is None:
            time = jnp.zeros((*embedding.shape[:2], 1))
            noisy_actions = jnp.zeros((*embedding.shape[:2], self.action_horizon, self.action_dim))
        return self._noise(embedding, noisy_actions, time)

    def _noise(self, embedding: jax.Array, noisy: jax.Array, time: jax.Array) -> jax.Array:
        stride = 2 ** (len(self.down_features) - 1)
        missing = -noisy.shape[-2] % stride
        filled = jnp.pad(noisy.astype(embedding.dtype), [*[(0, 0)] * (noisy.ndim - 2), (0, missing), (0, 0)])
        embedding = jnp.broadcast_to(embedding, (*noisy.shape[:-2], embedding.shape[-1]))
        features = self.model(embedding, filled, time)[..., : noisy.shape[-2], :]
        return self.action_proj(features).astype(jnp.float32)

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
        """`action_dim` times the masked squared error of the predicted noise, at one random time for each step.

        Fixed draws `noise` and `time` are taken as by `DiffusionActionHead.loss`.
        """
        actions = jnp.clip(actions, -self.max_action, self.max_action)
        if noise is None or time is None:
            time_key, noise_key = jax.random.split(self.make_rng("dropout"))
            time = jax.random.randint(time_key, (*actions.shape[:2], 1), 0, self.timesteps)
            noise = jax.random.normal(noise_key, actions.shape)
        else:
            noise = jnp.moveaxis(noise, 1, 0)
            time = jnp.floor(jnp.moveaxis(time, 1, 0) * self.timesteps).astype(jnp.int32)[..., None]
        kept = self.alpha_hats[time][..., None]
        error = self(groups, train, time, jnp.sqrt(kept) * actions + jnp.sqrt(1 - kept) * noise) - noise
        mse = masked_mean(error**2, action_mask & real[:, :, None, None]) * self.action_dim
        return mse, {"mse": mse}

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
        embedding = self.embedding(groups, False)
        used = jnp.arange(self.action_dim) < (embodiment_action_dim or self.action_dim)
        rng, key = jax.random.split(rng)
        chunk = jax.random.normal(key, (*sample_shape, *embedding.shape[:2], self.action_horizon, self.action_dim))

        def denoise(head: "UNetDDPMActionHead", carry: tuple[jax.Array, jax.Array], time: jax.Array) -> tuple:
            return head._denoise(embedding, used, carry, time), None

        scan = nn.scan(denoise, variable_broadcast="params", split_rngs={"params": False})
        (chunk, _), _ = scan(self, (chunk, rng), jnp.arange(self.timesteps - 1, -1, -1))
        return chunk[..., -1, :, :]

    def _denoise(
        self, embedding: jax.Array, used: jax.Array, carry: tuple[jax.Array, jax.Array], time: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """One ancestral step: the posterior mean of Ho et al. 2020 (equations 6 and 7) through the predicted x_0."""
        chunk, rng = carry
        alpha, kept = self.alphas[time], self.alpha_hats[time]
        before = jnp.where(time > 0, self.alpha_hats[time - 1], 1.0)
        noise = self._noise(embedding, chunk, jnp.broadcast_to(time, (*chunk.shape[:-2], 1)))
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
