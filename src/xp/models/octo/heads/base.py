"""What all action heads share: the interface, pooling of the readout tokens, masked means, triangular factors."""

import math
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key, Shaped, UInt32

from xp.models.octo.network.tokenizers import TokenGroup
from xp.models.octo.network.transformer import MAPHead

Groups = Mapping[str, TokenGroup]
Actions = Float[Array, "batch history horizon action"]
"""Normalised chunks, one for every observed step."""
Real = Bool[Array, "batch history"]
"""Which steps were observed."""
ActionMask = Bool[Array, "batch history horizon action"]
"""Which numbers of the chunks are to be learned from."""
Chunks = Float[Array, "*draws batch horizon action"]
"""Normalised chunks for the last observed step."""
Embedding = Float[Array, "batch history width"]
Parts = dict[str, Float[Array, ""]]
Temperature = float | Float[Array, ""]
RandomKey = Key[Array, ""] | UInt32[Array, "2"]
"""A key of jax.random, of today's kind or, as the original draws, a raw one."""


class Density(NamedTuple):
    """A Gaussian in normalised units; its factor is shared by all steps of the horizon."""

    mean: Float[Array, "batch history horizon action"]
    scale_tril: Float[Array, "batch history action action"]


class DrawOptions(TypedDict, total=False):
    """Options of `ActionHead.predict_action` that a compiled program has built in."""

    sample_shape: tuple[int, ...]
    argmax: bool | None
    embodiment_action_dim: int | None


class ActionHead(nn.Module):
    """Readout tokens [B, T, n, D] to normalised actions [B, T, H, A].

    Subclasses give `__call__(groups, train)`, `loss(groups, actions, real, action_mask, train)`, and `mode(groups)` and
    `draw(groups, rng, ...)`, between which `predict_action` chooses. `pool_dropout` is the dropout inside the pooling's
    feed-forward block, in training: 0.1 in Octo's heads, whatever the transformer's own rate is.
    """

    readout_key: str = "readout_action"
    use_map: bool = True
    action_horizon: int = 1
    action_dim: int = 7
    pool_dropout: float = 0.1

    takes_draws = False
    """Whether `loss` takes `noise` [B, D, T, H, A] and `time` [B, D, T] in [0, 1) instead of drawing them itself."""
    prefers_mode = False
    """What `predict_action` gives where it is not told: the mode instead of a draw."""

    def pool(self, groups: Groups, map_head: MAPHead, train: bool) -> Embedding:
        """One float32 or half-precision embedding a step."""
        group = groups[self.readout_key]
        return map_head(group, train)[..., 0, :] if self.use_map else group.tokens.mean(axis=-2)

    def chunk(
        self, flat: Float[Array, "*lead {self.action_horizon*self.action_dim}"]
    ) -> Float[Array, "*lead {self.action_horizon} {self.action_dim}"]:
        """Split the last axis H*A into H, A, in float32."""
        return flat.astype(jnp.float32).reshape(*flat.shape[:-1], self.action_horizon, self.action_dim)

    def density(self, groups: Groups, train: bool = False) -> Density | None:
        """The predictive density; None for a head without one."""
        return None

    def loss(
        self, groups: Groups, actions: Actions, real: Real, action_mask: ActionMask, train: bool = True
    ) -> tuple[Float[Array, ""], Parts]:
        """The objective and its parts, all scalars."""
        raise NotImplementedError  # abstract: every head has its own

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
        """Chunks for the last observed step: the mode as often as `sample_shape` asks, or independent draws.

        Args:
            groups: token groups by name.
            rng: of the draws.
            sample_shape: leading axes of the result.
            argmax: whether the mode is given; None: what the head prefers.
            temperature: factor on the deviation of a draw; of a discrete head, what its logits are divided by.
            embodiment_action_dim: action dimensions in use; those from it on are held at noise by a diffusion head.
        """
        if self.prefers_mode if argmax is None else argmax:
            mode = self.mode(groups)
            return jnp.broadcast_to(mode, (*sample_shape, *mode.shape))
        return self.draw(groups, rng, sample_shape, temperature)

    def mode(self, groups: Groups) -> Float[Array, "batch horizon action"]:
        """The likeliest chunk."""
        raise NotImplementedError  # abstract: every head has its own

    def draw(self, groups: Groups, rng: RandomKey, sample_shape: tuple[int, ...], temperature: Temperature) -> Chunks:
        """Random chunks."""
        raise NotImplementedError  # abstract: every head has its own


def masked_mean(values: Shaped[Array, "*shape"], mask: Bool[Array, "..."]) -> Float[Array, ""]:
    """Mean of `values` where `mask` (broadcast against them); 0 where nothing is masked in (Octo's rule)."""
    mask = jnp.broadcast_to(mask, values.shape)
    return jnp.mean(values * mask) / jnp.clip(jnp.mean(mask), 1e-5)


def lower_triangular(
    entries: Float[Array, "*lead {size*(size+1)//2}"], size: int
) -> Float[Array, "*lead {size} {size}"]:
    """Fill a lower triangle row by row, zeros above the diagonal."""
    rows, columns = np.tril_indices(size)
    index = np.zeros((size, size), dtype=np.int32)
    index[rows, columns] = np.arange(len(rows))
    return jnp.where(np.tri(size, dtype=bool), entries[..., index], 0.0)


def gaussian_log_density(
    residual: Float[Array, "*lead horizon action"], scale_tril: Float[Array, "*lead action action"]
) -> Float[Array, "*lead horizon"]:
    """Log N(r; 0, L L^T) of every step from the factor alone.

    log N = -1/2 |L^-1 r|^2 - sum_i log|L_ii| - A/2 log(2 pi): one triangular solve, no factorisation.
    """
    white = jax.scipy.linalg.solve_triangular(scale_tril, jnp.swapaxes(residual, -1, -2), lower=True)
    diagonal = jnp.abs(jnp.diagonal(scale_tril, axis1=-2, axis2=-1))
    constant = 0.5 * residual.shape[-1] * math.log(2 * math.pi)
    return -0.5 * jnp.sum(white**2, axis=-2) - jnp.sum(jnp.log(diagonal), axis=-1)[..., None] - constant
