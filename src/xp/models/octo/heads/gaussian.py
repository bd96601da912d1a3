"""A Gaussian head with a learned mean and one covariance factor shared over the horizon."""

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


class GaussianActionHead(ActionHead):
    """a_h ~ N(mean_h(e), L(e) L(e)^T), independent over the steps h of the chunk, L lower triangular.

    L's diagonal is softplus + `min_std`, so the factor is valid as it is: the likelihood needs a triangular solve and
    a log-diagonal (`gaussian_log_density`), never a Cholesky. At initialisation L is close to the identity, the
    deviation of normalised actions.
    """

    min_std: float = 1e-2
    pool_dropout: float = 0.0

    prefers_mode = True

    def setup(self) -> None:
        """Make the two projections and the pooling (materialised only where it is used)."""
        self.map_head = MAPHead(dropout_rate=self.pool_dropout)
        self.mean_proj = nn.Dense(self.action_horizon * self.action_dim)
        entries = self.action_dim * (self.action_dim + 1) // 2
        self.scale_proj = nn.Dense(entries, kernel_init=nn.initializers.normal(1e-2))

    def __call__(self, groups: Groups, train: bool = False) -> Density:
        """Mean and factor."""
        embedding = self.pool(groups, self.map_head, train)
        factor = lower_triangular(self.scale_proj(embedding).astype(jnp.float32), self.action_dim)
        raw = jnp.diagonal(factor, axis1=-2, axis2=-1)
        unit = math.log(math.expm1(1.0 - self.min_std))
        diagonal = nn.softplus(raw + unit) + self.min_std
        strict = factor - raw[..., None] * jnp.eye(self.action_dim)
        return Density(self.chunk(self.mean_proj(embedding)), strict + diagonal[..., None] * jnp.eye(self.action_dim))

    def density(self, groups: Groups, train: bool = False) -> Density:
        """The predictive density of every step of the window."""
        return self(groups, train)

    def loss(
        self, groups: Groups, actions: Actions, real: Real, action_mask: ActionMask, train: bool = True
    ) -> tuple[Float[Array, ""], Parts]:
        """Negative log-likelihood in nats per action, averaged over real steps; padded steps weigh nothing.

        Padded dimensions leave the factor: with the trailing dimensions padded, as Octo pads small action spaces, what
        remains is exactly the marginal of the real ones.
        """
        mean, factor = self(groups, train)
        mask = action_mask & real[:, :, None, None]
        residual = jnp.where(mask, actions - mean, 0.0)
        used = jnp.any(mask, axis=-2)
        pair = used[..., :, None] & used[..., None, :]
        kept = jnp.where(pair, factor, jnp.eye(self.action_dim))
        unused = 0.5 * math.log(2 * math.pi) * jnp.sum(~used, axis=-1)
        nll = -gaussian_log_density(residual, kept) - unused[..., None]
        loss = masked_mean(nll, jnp.any(mask, axis=-1))
        diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
        parts = {"nll": loss, "mse": masked_mean(residual**2, mask), "std": jnp.mean(diagonal)}
        return loss, parts

    def mode(self, groups: Groups) -> Float[Array, "batch horizon action"]:
        """The mean."""
        return self(groups).mean[:, -1]

    def draw(self, groups: Groups, rng: RandomKey, sample_shape: tuple[int, ...], temperature: Temperature) -> Chunks:
        """Samples mean + temperature * L z, z independent for every step of the chunk."""
        mean, factor = self(groups)
        mean, factor = mean[:, -1], factor[:, -1]
        noise = jax.random.normal(rng, (*sample_shape, *mean.shape))
        return mean + temperature * jnp.einsum("bij,...bhj->...bhi", factor, noise)
