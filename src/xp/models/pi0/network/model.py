"""pi0 and pi0.5: the network as modules that hold the parameter tree of openpi.

A prefix (pictures and text) is read by the language expert, a suffix (pi0: the state; noisy actions) by the action
expert. Prefix tokens attend to the prefix alone, so their keys and values are computed once for all steps of sampling.
Black et al. 2024 (arXiv 2410.24164), appendix B; Physical Intelligence 2025 (arXiv 2504.16054).

Letters: B batch, H horizon, A action, W width of the action expert.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from xp.models.pi0.cameras import SLOTS
from xp.models.pi0.network.gemma import Cache, Gemma, attention_mask
from xp.models.pi0.network.layers import Dense
from xp.models.pi0.network.siglip import Siglip
from xp.models.pi0.network.sizes import Sizes

_SHORTEST, _LONGEST = 4e-3, 4.0
"""Periods of the embedding of time."""

type Inputs = Mapping[str, Array | np.ndarray]
"""`image/NAME` [B, h, w, 3] uint8, or float of -1..1; `image_mask/NAME` [B] bool; `tokens` [B, L] int32 and
`token_mask` [B, L] bool; `state` [B, A] float32; for the loss `action` [B, H, A] float32, and optionally
`action_is_pad` [B, H] bool, `noise` [B, H, A] and `time` [B] float32. All normalised, states and actions filled up.
`action_dim_is_pad` [B, A] bool: dimensions that count in no loss, where they are not those of all rows.
`delay` [B] int32: how many actions are given clean in the loss, where the network learns that."""

IMAGE, IMAGE_MASK, TOKENS, TOKEN_MASK = "image/", "image_mask/", "tokens", "token_mask"
STATE, ACTION, IS_PAD, NOISE, TIME = "state", "action", "action_is_pad", "noise", "time"


class Block(NamedTuple):
    """Tokens, which of them are there, and which begin a block (see `attention_mask`)."""

    tokens: Float[Array, "batch token width"]
    valid: Bool[Array, "batch token"]
    begins: Bool[Array, " token"]


class Suffix(NamedTuple):
    """What the action expert reads; `condition` modulates its norms in pi0.5."""

    block: Block
    condition: Float[Array, "batch *each width"] | None


class PaliGemma(nnx.Module):
    """The vision-language model and the action expert (Beyer et al. 2024)."""

    def __init__(self, sizes: Sizes) -> None:
        experts = (sizes.language, sizes.action)
        self.img = Siglip(sizes.vision, sizes.language.width)
        self.llm = Gemma(sizes.vocabulary, experts, (False, sizes.is_pi05))


class Pi0(nnx.Module):
    """The whole network. `dtype` is what the transformers compute in; None: the type of the text's table."""

    def __init__(self, sizes: Sizes, *, dtype: str | None = None, remat: bool = False) -> None:
        self.is_pi05, self.remat, self._dtype = sizes.is_pi05, remat, dtype
        width, wide = sizes.action.width, sizes.action_dim
        self.PaliGemma = PaliGemma(sizes)
        self.action_in_proj = Dense((), wide, width)
        if sizes.is_pi05:
            self.time_mlp_in, self.time_mlp_out = Dense((), width, width), Dense((), width, width)
        else:
            self.state_proj = Dense((), wide, width)
            self.action_time_mlp_in, self.action_time_mlp_out = Dense((), 2 * width, width), Dense((), width, width)
        self.action_out_proj = Dense((), width, wide)

    @property
    def dtype(self) -> jnp.dtype:
        """What the transformers compute in."""
        return jnp.dtype(self._dtype or self.PaliGemma.llm.embedder.input_embedding[...].dtype)

    def prefix(self, inputs: Inputs) -> Block:
        """Tokens of the pictures, in the order of `SLOTS`, and of the text."""
        tokens, valid = [], []
        for name in SLOTS:
            if f"{IMAGE}{name}" not in inputs:
                continue
            found = self.PaliGemma.img(_pixels(inputs[f"{IMAGE}{name}"]), self.dtype, self.remat)
            tokens.append(found)
            there = jnp.asarray(inputs[f"{IMAGE_MASK}{name}"])
            valid.append(jnp.broadcast_to(there[:, None], found.shape[:2]))
        tokens.append(self.PaliGemma.llm.embed(jnp.asarray(inputs[TOKENS]), self.dtype))
        valid.append(jnp.asarray(inputs[TOKEN_MASK]))
        whole = jnp.concatenate(tokens, axis=1)
        return Block(whole, jnp.concatenate(valid, axis=1), jnp.zeros(whole.shape[1], bool))

    def suffix(
        self,
        state: Float[Array, "batch dim"],
        noisy: Float[Array, "batch horizon dim"],
        time: Float[Array, " batch *each"],
    ) -> Suffix:
        """Tokens of the state (pi0) and of noisy actions at a time of the flow (1: noise, 0: actions), or one each."""
        actions = self.action_in_proj(noisy)
        clock = time_embedding(time, actions.shape[-1])
        starts = [jnp.ones(1, bool), jnp.zeros(actions.shape[1] - 1, bool)]
        if self.is_pi05:
            condition = nnx.swish(self.time_mlp_out(nnx.swish(self.time_mlp_in(clock))))
            return Suffix(_all_there(actions, starts), condition)
        clock = jnp.broadcast_to(clock if clock.ndim == 3 else clock[:, None], actions.shape)
        mixed = self.action_time_mlp_in(jnp.concatenate([actions, clock.astype(actions.dtype)], axis=-1))
        mixed = self.action_time_mlp_out(nnx.swish(mixed))
        tokens = jnp.concatenate([self.state_proj(state)[:, None], mixed], axis=1)
        return Suffix(_all_there(tokens, [jnp.ones(1, bool), *starts]), None)

    def read_prefix(self, inputs: Inputs) -> tuple[Cache, Bool[Array, "batch token"]]:
        """Keys and values of the prefix for every layer, and which of its tokens are there."""
        prefix = self.prefix(inputs)
        mask = attention_mask(prefix.valid, prefix.begins[None])
        _, cache = self._experts((prefix.tokens, None), None, _counted(prefix.valid), mask, None)
        return cache, prefix.valid

    def velocity_after(
        self,
        cache: Cache,
        valid: Bool[Array, "batch prefix"],
        state: Float[Array, "batch dim"],
        noisy: Float[Array, "batch horizon dim"],
        time: Float[Array, " batch *each"],
    ) -> Float[Array, "batch horizon dim"]:
        """The velocity (noise - actions) of the flow, the prefix taken from `read_prefix`."""
        block, condition = self.suffix(state, noisy, time)
        own = attention_mask(block.valid, block.begins[None])
        before = jnp.broadcast_to(valid[:, None, :], (*own.shape[:2], valid.shape[1]))
        positions = valid.sum(-1, keepdims=True, dtype=jnp.int32) + _counted(block.valid)
        mask = jnp.concatenate([before, own], axis=-1)
        (_, found), _ = self._experts((None, block.tokens), condition, positions, mask, cache)
        return self._out(found, noisy.shape[1])

    def velocity(
        self, inputs: Inputs, noisy: Float[Array, "batch horizon dim"], time: Float[Array, " batch *each"]
    ) -> Float[Array, "batch horizon dim"]:
        """The same in one pass through both experts, as in training."""
        prefix, (block, condition) = self.prefix(inputs), self.suffix(jnp.asarray(inputs[STATE]), noisy, time)
        valid = jnp.concatenate([prefix.valid, block.valid], axis=1)
        begins = jnp.concatenate([prefix.begins, block.begins])
        tokens = (prefix.tokens, block.tokens)
        (_, found), _ = self._experts(tokens, condition, _counted(valid), attention_mask(valid, begins[None]), None)
        return self._out(found, noisy.shape[1])

    def _experts(
        self, tokens: Sequence[Array | None], condition: Array | None, positions: Array, mask: Array, past: Cache | None
    ) -> tuple[Sequence[Array | None], Cache]:
        dtype, llm = self.dtype, self.PaliGemma.llm
        given = None if condition is None else condition.astype(dtype)
        return llm(tokens, (None, given), positions, mask, past, dtype=dtype, remat=self.remat)

    def _out(self, tokens: Array | None, horizon: int) -> Float[Array, "batch horizon dim"]:
        assert tokens is not None
        return self.action_out_proj(tokens[:, -horizon:])


def time_embedding(time: Float[Array, " batch *each"], width: int) -> Float[Array, "batch *each {width}"]:
    """Sines and cosines of a time, their periods spaced geometrically from 4e-3 to 4 (float32)."""
    share = jnp.linspace(0.0, 1.0, width // 2)
    period = _SHORTEST * (_LONGEST / _SHORTEST) ** share
    angle = time[..., None] * (1.0 / period * 2 * jnp.pi)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _pixels(picture: Array | np.ndarray) -> Float[Array, "batch height width 3"]:
    """Pixels of -1..1; floats are so already."""
    found = jnp.asarray(picture)
    return found.astype(jnp.float32) / 255.0 * 2.0 - 1.0 if found.dtype == jnp.uint8 else found


def _all_there(tokens: Float[Array, "batch token width"], begins: Sequence[Bool[Array, " _part"]]) -> Block:
    return Block(tokens, jnp.ones(tokens.shape[:2], bool), jnp.concatenate(list(begins)))


def _counted(valid: Bool[Array, "batch token"]) -> Int[Array, "batch token"]:
    """Positions of the tokens that are there; others take no place."""
    return jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
