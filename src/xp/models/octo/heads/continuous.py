"""Octo's point-estimate heads: a bounded mean, trained with absolute or squared error."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from xp.models.octo.heads.base import (
    ActionHead,
    ActionMask,
    Actions,
    Chunks,
    Groups,
    Parts,
    RandomKey,
    Real,
    Temperature,
    masked_mean,
)
from xp.models.octo.network.transformer import MAPHead


class ContinuousActionHead(ActionHead):
    """Mean tanh(x / max_action) * max_action; the loss is summed over the action's dimensions, averaged elsewhere."""

    use_map: bool = False
    max_action: float = 5.0
    loss_type: str = "mse"

    def setup(self) -> None:
        """Make the projection and the pooling (materialised only where it is used)."""
        self.map_head = MAPHead(dropout_rate=self.pool_dropout)
        self.mean_proj = nn.Dense(self.action_horizon * self.action_dim)

    def __call__(self, groups: Groups, train: bool = False) -> Actions:
        """The mean."""
        mean = self.chunk(self.mean_proj(self.pool(groups, self.map_head, train)))
        return jnp.tanh(mean / self.max_action) * self.max_action

    def loss(
        self, groups: Groups, actions: Actions, real: Real, action_mask: ActionMask, train: bool = True
    ) -> tuple[Float[Array, ""], Parts]:
        """`action_dim` times the mean error over real actions."""
        error = self(groups, train) - actions
        mask = action_mask & real[:, :, None, None]
        mse = masked_mean(error**2, mask) * self.action_dim
        loss = mse if self.loss_type == "mse" else masked_mean(jnp.abs(error), mask) * self.action_dim
        return loss, {"mse": mse}

    def mode(self, groups: Groups) -> Float[Array, "batch horizon action"]:
        """The mean."""
        return self(groups)[:, -1]

    def draw(self, groups: Groups, rng: RandomKey, sample_shape: tuple[int, ...], temperature: Temperature) -> Chunks:
        """The mean; there is nothing to sample."""
        mean = self.mode(groups)
        return jnp.broadcast_to(mean, (*sample_shape, *mean.shape))


class MSEActionHead(ContinuousActionHead):
    """Squared error, pooled by attention unless told otherwise."""

    use_map: bool = True
    loss_type: str = "mse"


class L1ActionHead(ContinuousActionHead):
    """Absolute error, pooled by attention unless told otherwise."""

    use_map: bool = True
    loss_type: str = "l1"
