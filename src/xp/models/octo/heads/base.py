"""What all action heads share: the interface, pooling of the readout tokens, masked means, triangular factors."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from xp.models.octo.network.tokenizers import TokenGroup
from xp.models.octo.network.transformer import MAPHead

Groups = Mapping[str, TokenGroup]
Parts = dict[str, jax.Array]


class Density(NamedTuple):
    """A Gaussian in normalised units: mean [B, T, H, A], scale_tril [B, T, A, A] shared by all steps of the horizon."""

    mean: jax.Array
    scale_tril: jax.Array


class ActionHead(nn.Module):
    """Readout tokens [B, T, n, D] to normalised actions [B, T, H, A].

    Subclasses give `__call__(groups, train)`, `loss(groups, actions, real, action_mask, train)` and
    `predict_action(groups, rng, ...)`. In a loss, `real` [B, T] marks observed steps and `action_mask` [B, T, H, A]
    actions to learn from. `pool_dropout` is the dropout inside the pooling's feed-forward block, in training: 0.1 in
    Octo's heads, whatever the transformer's own rate is.
    """

    readout_key: str = "readout_action"
    use_map: bool = True
    action_horizon: int = 1
    action_dim: int = 7
    pool_dropout: float = 0.1

    takes_draws = False
    """Whether `loss` takes `noise` [B, D, T, H, A] and `time` [B, D, T] in [0, 1) instead of drawing them itself."""

    def pool(self, groups: Groups, map_head: MAPHead, train: bool) -> jax.Array:
        """One float32 or half-precision embedding a step: [B, T, D]."""
        group = groups[self.readout_key]
        return map_head(group, train)[..., 0, :] if self.use_map else group.tokens.mean(axis=-2)

    def chunk(self, flat: jax.Array) -> jax.Array:
        """Split the last axis H*A into H, A, in float32."""
        return flat.astype(jnp.float32).reshape(*flat.shape[:-1], self.action_horizon, self.action_dim)

    def density(self, groups: Groups, train: bool = False) -> Density | None:
        """The predictive density; None for a head without one."""
        return None

    def loss(
        self, groups: Groups, actions: jax.Array, real: jax.Array, action_mask: jax.Array, train: bool = True
    ) -> tuple[jax.Array, Parts]:
        """The objective and its parts, all scalars."""
        raise NotImplementedError  # abstract: every head has its own

    def predict_action(self, groups: Groups, rng: jax.Array, **options: Any) -> jax.Array:
        """Chunks [*sample_shape, B, H, A] for the last observed step, in normalised units."""
        raise NotImplementedError  # abstract: every head has its own


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `values` where `mask` (broadcast against them); 0 where nothing is masked in (Octo's rule)."""
    mask = jnp.broadcast_to(mask, values.shape)
    return jnp.mean(values * mask) / jnp.clip(jnp.mean(mask), 1e-5)


def lower_triangular(entries: jax.Array, size: int) -> jax.Array:
    """Fill [..., d(d+1)/2] row by row into lower-triangular [..., d, d], zeros above the diagonal."""
    rows, columns = np.tril_indices(size)
    index = np.zeros((size, size), dtype=np.int32)
    index[rows, columns] = np.arange(len(rows))
    return jnp.where(np.tri(size, dtype=bool), entries[..., index], 0.0)


def gaussian_log_density(residual: jax.Array, scale_tril: jax.Array) -> jax.Array:
    """Log N(r; 0, L L^T) from the factor alone: residual [..., H, A], scale_tril [..., A, A] -> [..., H].

    log N = -1/2 |L^-1 r|^2 - sum_i log|L_ii| - A/2 log(2 pi): one triangular solve, no factorisation.
    """
    white = jax.scipy.linalg.solve_triangular(scale_tril, jnp.swapaxes(residual, -1, -2), lower=True)
    diagonal = jnp.abs(jnp.diagonal(scale_tril, axis1=-2, axis2=-1))
    constant = 0.5 * residual.shape[-1] * math.log(2 * math.pi)
    return -0.5 * jnp.sum(white**2, axis=-2) - jnp.sum(jnp.log(diagonal), axis=-1)[..., None] - constant
