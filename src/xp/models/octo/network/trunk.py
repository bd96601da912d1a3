"""The trunk: tokenise tasks and observations, add positions and readouts, run the blockwise transformer."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from xp.models.octo.network.tokenizers import Inputs, TokenGroup
from xp.models.octo.network.transformer import BlockTransformer, NamedGroup, TransformerSizes


class OctoTransformer(nn.Module):
    """Observations and tasks to contextual token groups.

    `readouts` maps a readout's name to its number of tokens; `max_horizon` is the longest observation history that has
    position embeddings. With `repeat_task_tokens` the task tokens stand in every step again, as `obs_task_*`.
    """

    observation_tokenizers: Mapping[str, nn.Module]
    task_tokenizers: Mapping[str, nn.Module]
    readouts: Mapping[str, int]
    transformer_kwargs: TransformerSizes
    token_embedding_size: int
    max_horizon: int
    repeat_task_tokens: bool = False
    use_correct_attention: bool = False

    @nn.compact
    def __call__(
        self,
        observations: Inputs,
        tasks: Inputs,
        timestep_pad_mask: Bool[Array, "batch history"],
        train: bool = False,
    ) -> dict[str, TokenGroup]:
        """Return all groups by name, and `task` and `obs`, which join theirs.

        Args:
            observations: Octo's names, [B, T, ...].
            tasks: Octo's names, [B, ...].
            timestep_pad_mask: True where a step is real.
            train: whether dropout is on.
        """
        prefix = self._task_groups(observations, tasks, train)
        steps = self._observation_groups(observations, tasks, timestep_pad_mask, train)
        if self.repeat_task_tokens:
            steps += [_repeated(group, timestep_pad_mask.shape[1]) for group in prefix]
        steps += self._readout_groups(timestep_pad_mask)
        transformer = BlockTransformer(
            **self.transformer_kwargs, use_correct_attention=self.use_correct_attention, name="BlockTransformer_0"
        )
        groups = transformer(prefix, steps, train)
        if prefix:
            groups["task"] = _joined([groups[group.name] for group in prefix], axis=1)
        groups["obs"] = _joined([groups[group.name] for group in steps if group.name.startswith("obs_")], axis=2)
        return groups

    def _task_groups(self, observations: Inputs, tasks: Inputs, train: bool) -> list[NamedGroup]:
        groups = []
        for name, tokenizer in self.task_tokenizers.items():
            found = tokenizer(observations, tasks, train=train)
            if found is not None:
                groups.append(NamedGroup(f"task_{name}", self._embedded(f"task_{name}", found.tokens), found.mask))
        return groups

    def _observation_groups(
        self, observations: Inputs, tasks: Inputs, real: Bool[Array, "batch history"], train: bool
    ) -> list[NamedGroup]:
        groups = []
        for name, tokenizer in self.observation_tokenizers.items():
            found = tokenizer(observations, tasks, train=train)
            if found is not None:
                mask = real[:, :, None] & found.mask
                groups.append(NamedGroup(f"obs_{name}", self._embedded(f"obs_{name}", found.tokens), mask))
        return groups

    def _readout_groups(self, real: Bool[Array, "batch history"]) -> list[NamedGroup]:
        groups = []
        for name, tokens in self.readouts.items():
            positions = self._positions(f"readout_{name}", (*real.shape, tokens))
            shape = (*real.shape, tokens)
            empty = jnp.broadcast_to(positions, (*shape, self.token_embedding_size))
            groups.append(NamedGroup(f"readout_{name}", empty, jnp.ones(shape)))
        return groups

    def _embedded(
        self, group: str, tokens: Float[Array, "*lead _width"]
    ) -> Float[Array, "*lead {self.token_embedding_size}"]:
        """Project to the transformer's width and add the group's positions."""
        positions = self._positions(group, tokens.shape[:-1])
        projection = nn.Dense(self.token_embedding_size, name=f"{group}_projection")
        return projection(tokens.astype(positions.dtype)) + positions

    def _positions(
        self, group: str, shape: tuple[int, ...]
    ) -> Float[Array, "1 *history tokens {self.token_embedding_size}"]:
        """Learned positions of a prefix group [1, n, D], or of a step group [1, T, n, D]."""
        full = (1, *shape[1:]) if len(shape) == 2 else (1, self.max_horizon, shape[2])
        table = self.param(f"{group}_pos_embedding", nn.initializers.normal(0.02), (*full, self.token_embedding_size))
        return table if len(shape) == 2 else table[:, : shape[1]]


def _repeated(group: NamedGroup, history: int) -> NamedGroup:
    """Put a prefix group into every step; its mask stays the task's own, also on padded steps."""
    batch, length, width = group.tokens.shape
    tokens = jnp.broadcast_to(group.tokens[:, None], (batch, history, length, width))
    return NamedGroup(f"obs_{group.name}", tokens, jnp.broadcast_to(group.mask[:, None], (batch, history, length)))


def _joined(groups: list[TokenGroup], axis: int) -> TokenGroup:
    return TokenGroup(
        jnp.concatenate([group.tokens for group in groups], axis=axis),
        jnp.concatenate([group.mask for group in groups], axis=axis),
    )
