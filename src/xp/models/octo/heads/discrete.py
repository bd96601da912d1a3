"""Octo's discrete head: each number of an action is one of `vocab_size` bins."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from xp.models.octo.bins import Bins
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


class DiscreteActionHead(ActionHead):
    """Logits over bins for every number of the chunk, trained with cross-entropy.

    `token_per` says what one token answers for: the whole chunk (""), one step ("action_horizon") or one number. With
    `use_map` that many tokens are pooled; without it the readout must have exactly that many. Bins are `uniform` over
    [low, high] (default 0..1, Octo's) or `normal`: of equal probability for normalised actions.
    """

    use_map: bool = False
    token_per: str = "action_dim_and_action_horizon"
    vocab_size: int = 256
    normalization_type: str = "uniform"
    low: float | None = None
    high: float | None = None

    def setup(self) -> None:
        """Make the projection, the bins and the pooling (materialised only where it is used)."""
        tokens = {"": 1, "action_horizon": self.action_horizon}.get(
            self.token_per, self.action_horizon * self.action_dim
        )
        self.map_head = MAPHead(dropout_rate=self.pool_dropout, probes=tokens)
        self.vocab_proj = nn.Dense(self.action_horizon * self.action_dim * self.vocab_size // tokens)
        self.bins = Bins.of(self.vocab_size, self.normalization_type, self.low, self.high)

    def __call__(
        self, groups: Groups, train: bool = False
    ) -> Float[Array, "batch history horizon action {self.vocab_size}"]:
        """Logits, float32."""
        group = groups[self.readout_key]
        tokens = self.map_head(group, train) if self.use_map else group.tokens
        logits = self.vocab_proj(tokens).astype(jnp.float32)
        return logits.reshape(*tokens.shape[:2], self.action_horizon, self.action_dim, self.vocab_size)

    def loss(
        self, groups: Groups, actions: Actions, real: Real, action_mask: ActionMask, train: bool = True
    ) -> tuple[Float[Array, ""], Parts]:
        """Mean cross-entropy over real numbers; `mse` of the likeliest bins is summed over the action's dimensions."""
        logits = self(groups, train)
        mask = action_mask & real[:, :, None, None]
        truth, guess = self.bins.index(actions), jnp.argmax(logits, axis=-1)
        likelihood = jnp.take_along_axis(nn.log_softmax(logits), truth[..., None], axis=-1)[..., 0]
        loss = masked_mean(-likelihood, mask)
        mse = masked_mean((self.bins.centre(guess) - actions) ** 2, mask) * self.action_dim
        return loss, {"mse": mse, "accuracy": masked_mean(guess == truth, mask)}

    def mode(self, groups: Groups) -> Float[Array, "batch horizon action"]:
        """Centres of the likeliest bins."""
        return self.bins.centre(jnp.argmax(self(groups)[:, -1], axis=-1))

    def draw(self, groups: Groups, rng: RandomKey, sample_shape: tuple[int, ...], temperature: Temperature) -> Chunks:
        """Centres of bins drawn with logits divided by the temperature."""
        logits = self(groups)[:, -1]
        shape = (*sample_shape, *logits.shape[:-1])
        return self.bins.centre(jax.random.categorical(rng, logits / temperature, shape=shape))


class TokenPerDimActionHead(DiscreteActionHead):
    """One token for every number of the chunk, under the name older folders use."""
