"""What the two diffusion heads share: the noise schedule, the training objective, and the sampling loop."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Num

from xp.models.octo.heads.base import (
    ActionHead,
    ActionMask,
    Actions,
    Chunks,
    Embedding,
    Groups,
    Parts,
    RandomKey,
    Real,
    Temperature,
    masked_mean,
)

Noisy = Float[Array, "..."]
"""A chunk [*S, B, T, *form] in the form of the head."""
Time = Num[Array, "*draws batch history 1"]
"""At which denoising step a chunk is."""
Used = Bool[Array, "*form"]
"""Which numbers of a chunk are in use."""
Carry = tuple[Noisy, RandomKey]
"""What a denoising step hands to the next."""


def cosine_betas(steps: int, offset: float = 0.008) -> Float[Array, " {steps}"]:
    """Noise variances of the cosine schedule (Nichol and Dhariwal 2021), clipped to 0.999: float32."""
    at = jnp.linspace(0, steps, steps + 1) / steps
    kept = jnp.cos((at + offset) / (1 + offset) * jnp.pi * 0.5) ** 2
    kept = kept / kept[0]
    return jnp.clip(1 - kept[1:] / kept[:-1], 0, 0.999)


class DenoisingHead(ActionHead):
    """Train by predicting the noise in a chunk, sample by denoising step by step (DDPM, Ho et al. 2020).

    A subclass sees a chunk in its own `form`, (H*A,) or (H, A). It sets `alphas` and `alpha_hats` (products of the
    alphas), one for each of its `count` steps, and gives `embedding`, `noise_in` and `denoise`.
    """

    takes_draws = True
    loss_type = "mse"
    n_diffusion_samples = 1
    max_action = 1.0

    @property
    def count(self) -> int:
        """How many denoising steps."""
        raise NotImplementedError  # abstract: every head has its own

    @property
    def form(self) -> tuple[int, ...]:
        """Trailing axes of a chunk as the network takes it."""
        raise NotImplementedError  # abstract: every head has its own

    def embedding(self, groups: Groups, train: bool) -> Embedding:
        """What the noise is predicted from."""
        raise NotImplementedError  # abstract: every head has its own

    def noise_in(self, embedding: Embedding, noisy: Noisy, time: Time, train: bool) -> Noisy:
        """The noise in `noisy` at `time`, float32."""
        raise NotImplementedError  # abstract: every head has its own

    def denoise(self, embedding: Embedding, used: Used, carry: Carry, time: Int[Array, ""]) -> Carry:
        """One step from `time` to the one before; where `used` (of `form`) is False the training noise is held."""
        raise NotImplementedError  # abstract: every head has its own

    def __call__(
        self,
        groups: Groups,
        train: bool = False,
        time: Time | None = None,
        noisy_actions: Noisy | None = None,
    ) -> Noisy:
        """Predicted noise [*S, B, T, *form]; without time and chunk it is that at zeros, which makes the weights."""
        embedding = self.embedding(groups, train)
        if time is None or noisy_actions is None:
            time = jnp.zeros((*embedding.shape[:2], 1))
            noisy_actions = jnp.zeros((*embedding.shape[:2], *self.form))
        return self.noise_in(embedding, noisy_actions, time, train)

    def loss(
        self,
        groups: Groups,
        actions: Actions,
        real: Real,
        action_mask: ActionMask,
        train: bool = True,
        noise: Float[Array, "batch draws history horizon action"] | None = None,
        time: Float[Array, "batch draws history"] | None = None,
    ) -> tuple[Float[Array, ""], Parts]:
        """`action_dim` times the masked error of the predicted noise, at one random time for each observed step.

        Fixed draws `noise` and `time` in [0, 1) take the place of random ones; `time` becomes
        the step floor(time * count), which is uniform over the steps as in training.
        """
        lead = actions.shape[:2]
        actions = jnp.clip(actions.reshape(*lead, *self.form), -self.max_action, self.max_action)
        if noise is None or time is None:
            time, noise = self._drawn(lead)
        else:
            noise = jnp.moveaxis(noise, 1, 0).reshape(noise.shape[1], *actions.shape)
            time = jnp.floor(jnp.moveaxis(time, 1, 0) * self.count).astype(jnp.int32)[..., None]
        kept = self.alpha_hats[time].reshape(*time.shape[:3], *[1] * len(self.form))
        error = self(groups, train, time, jnp.sqrt(kept) * actions + jnp.sqrt(1 - kept) * noise) - noise
        mask = (action_mask & real[:, :, None, None]).reshape(actions.shape)[None]
        mse = masked_mean(error**2, mask) * self.action_dim
        loss = mse if self.loss_type == "mse" else masked_mean(jnp.abs(error), mask) * self.action_dim
        return loss, {"mse": mse}

    def _drawn(self, lead: tuple[int, ...]) -> tuple[Int[Array, "draws batch history 1"], Noisy]:
        """Random steps [S, B, T, 1] and noise [S, B, T, *form]."""
        time_key, noise_key = jax.random.split(self.make_rng("dropout"))
        lead = (self.n_diffusion_samples, *lead)
        time = jax.random.randint(time_key, (*lead, 1), 0, self.count)
        return time, jax.random.normal(noise_key, (*lead, *self.form))

    def predict_action(
        self,
        groups: Groups,
        rng: RandomKey,
        *,
        sample_shape: tuple[int, ...] = (),
        argmax: bool | None = None,
        temperature: Temperature = 1.0,
        embodiment_action_dim: int | None = None,
    ) -> Chunks:
        """Sample by ancestral DDPM steps; one pass through the transformer for any number of samples.

        There is no mode and no temperature: both are passed over.

        Dimensions from `embodiment_action_dim` on are held at the noise level they had in training.
        """
        embedding = self.embedding(groups, False)
        size = self.action_horizon * self.action_dim
        used = (jnp.arange(size) % self.action_dim < (embodiment_action_dim or self.action_dim)).reshape(self.form)
        rng, key = jax.random.split(rng)
        chunk = jax.random.normal(key, (*sample_shape, *embedding.shape[:2], *self.form))

        def step(head: "DenoisingHead", carry: Carry, time: Int[Array, ""]) -> tuple[Carry, None]:
            return head.denoise(embedding, used, carry, time), None

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        (chunk, _), _ = scan(self, (chunk, rng), jnp.arange(self.count - 1, -1, -1))
        last = jnp.take(chunk, -1, axis=-1 - len(self.form))
        return last.reshape(*last.shape[: last.ndim - len(self.form)], self.action_horizon, self.action_dim)
