"""The zero-mean covariance head of the octo_teleoperation project, kept as it is for parity."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from xp.models.octo.heads.base import (
    ActionHead,
    ActionMask,
    Actions,
    Chunks,
    Density,
    Groups,
    Parts,
    RandomKey,
    Real,
    Temperature,
    gaussian_log_density,
    lower_triangular,
    masked_mean,
)
from xp.models.octo.network.transformer import MAPHead


class TeleoperationActionHead(ActionHead):
    """a_h ~ N(0, Sigma(e)), Sigma = L L^T + min_cov_diag I, the same Sigma for every step of the chunk.

    The sum has no factor in closed form. The likelihood takes it from a QR of [L, sqrt(min_cov_diag) I]^T, which never
    squares L: Sigma's condition number reaches 5e4, where a float32 Cholesky of it leaves the loss good to 1e-5 only.
    """

    min_cov_diag: float = 1e-3

    def setup(self) -> None:
        """Make the projection and the pooling (materialised only where it is used)."""
        self.map_head = MAPHead(dropout_rate=self.pool_dropout)
        self.cov_proj = nn.Dense(self.action_dim * (self.action_dim + 1) // 2)

    def _lower(self, groups: Groups, train: bool) -> Float[Array, "batch history action action"]:
        """L, its diagonal of either sign."""
        entries = self.cov_proj(self.pool(groups, self.map_head, train)).astype(jnp.float32)
        return lower_triangular(entries, self.action_dim)

    def covariance(self, groups: Groups, train: bool = False) -> Float[Array, "batch history action action"]:
        """Sigma."""
        factor = self._lower(groups, train)
        return factor @ jnp.swapaxes(factor, -1, -2) + self.min_cov_diag * jnp.eye(self.action_dim)

    def __call__(
        self, groups: Groups, train: bool = False
    ) -> tuple[Actions, Float[Array, "batch history horizon action action"]]:
        """Mean, all zeros, and covariance of every step."""
        sigma = self.covariance(groups, train)
        shape = (*sigma.shape[:2], self.action_horizon, self.action_dim)
        return jnp.zeros(shape), jnp.broadcast_to(sigma[:, :, None], (*shape, self.action_dim))

    def density(self, groups: Groups, train: bool = False) -> Density:
        """The predictive density of every step of the window."""
        lower = self._lower(groups, train)
        floor = jnp.broadcast_to(math.sqrt(self.min_cov_diag) * jnp.eye(self.action_dim), lower.shape)
        upper = jnp.linalg.qr(jnp.concatenate([jnp.swapaxes(lower, -1, -2), floor], axis=-2), mode="r")
        sign = jnp.where(jnp.diagonal(upper, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
        factor = jnp.swapaxes(upper, -1, -2) * sign[..., None, :]
        return Density(jnp.zeros((*factor.shape[:2], self.action_horizon, self.action_dim)), factor)

    def loss(
        self, groups: Groups, actions: Actions, real: Real, action_mask: ActionMask, train: bool = True
    ) -> tuple[Float[Array, ""], Parts]:
        """The original's objective: NLL times action_dim, as `multi_horizon_finetune.py` trains it.

        Its rules are kept: a step counts if any of its dimensions does (padded dimensions are not marginalised),
        padded steps weigh nothing but still divide by H, and `mse` is the mean square of the actions times action_dim,
        a constant.
        """
        density = self.density(groups, train)
        log_density = gaussian_log_density(actions, density.scale_tril)
        step = jnp.mean(log_density * jnp.any(action_mask, axis=-1), axis=-1)
        nll = -jnp.sum(step * real) / jnp.maximum(jnp.sum(real), 1.0) * self.action_dim
        mse = masked_mean(actions**2, action_mask & real[:, :, None, None]) * self.action_dim
        return nll, {"nll": nll, "mse": mse}

    def mode(self, groups: Groups) -> Float[Array, "batch horizon action"]:
        """Zeros."""
        batch = groups[self.readout_key].tokens.shape[0]
        return jnp.zeros((batch, self.action_horizon, self.action_dim))

    def draw(self, groups: Groups, rng: RandomKey, sample_shape: tuple[int, ...], temperature: Temperature) -> Chunks:
        """One independent draw for every step of the chunk from N(0, temperature^2 Sigma)."""
        sigma = self.covariance(groups)[:, -1]
        factor = jnp.linalg.cholesky(temperature**2 * sigma)
        draws = []
        for _ in range(self.action_horizon):
            rng, key = jax.random.split(rng)
            draws.append(_draw(key, factor, sample_shape))
        return jnp.stack(draws, axis=-2)


def _draw(
    key: RandomKey, factor: Float[Array, "batch action action"], sample_shape: tuple[int, ...]
) -> Float[Array, "*draws batch action"]:
    """L z; z is laid out as TensorFlow Probability draws it (samples, event, batch)."""
    batch, size = factor.shape[:2]
    count = 1
    for length in sample_shape:
        count *= length
    noise = jnp.swapaxes(jax.random.normal(key, (count, size, batch)), -1, -2)
    return jnp.einsum("bij,nbj->nbi", factor, noise).reshape(*sample_shape, batch, size)
