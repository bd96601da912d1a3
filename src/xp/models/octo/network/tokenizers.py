"""Turns observations and tasks into groups of tokens: images, language, low-dimensional state."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Num, Shaped

from xp.json_types import JSON
from xp.models.octo.bins import Bins
from xp.models.octo.network.t5 import T5Encoder, T5Sizes
from xp.models.tree import Tree, branch, leaf_at

type Inputs = Tree[Array]
"""Observations or tasks in Octo's names, nested: `image_primary` [B, T, h, w, 3], `pad_mask_dict` {...}."""


class TokenGroup(NamedTuple):
    """Tokens, and which of them are real."""

    tokens: Float[Array, "*lead tokens width"]
    mask: Shaped[Array, "*lead tokens"]


def matching(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """Names that any of the regular expressions matches at their start, in the order given."""
    return [name for name in names if any(re.match(pattern, name) for pattern in patterns)]


def mask_from_inputs(inputs: Inputs, keys: Sequence[str], shape: tuple[int, ...]) -> Bool[Array, "*lead tokens"]:
    """Which tokens are real: bool `shape` = [..., n], True where any of `keys` is there by `pad_mask_dict`."""
    given = branch(inputs, "pad_mask_dict") if "pad_mask_dict" in inputs else {}
    if any(key not in given for key in keys):
        return jnp.ones(shape, dtype=bool)
    present = jnp.any(jnp.stack([leaf_at(given, key) for key in keys], axis=-1), axis=-1)
    return jnp.broadcast_to(present[..., None], shape)


class ImageTokenizer(nn.Module):
    """Images [B, T, h, w, 3] -> tokens [B, T, patches, features]; goal images are stacked on the channels.

    A goal image that is not given is uint8 zeros (that is -1 after normalisation), as in Octo's training.
    """

    encoder: type[nn.Module]
    encoder_name: str
    encoder_kwargs: Mapping[str, JSON]
    obs_stack_keys: Sequence[str] = ("image_.*", "depth_.*")
    task_stack_keys: Sequence[str] = ()
    proper_pad_mask: bool = True
    remat: bool = False

    @nn.compact
    def __call__(self, observations: Inputs, tasks: Inputs, train: bool = False) -> TokenGroup | None:
        """Tokenise; None where the observations have none of the cameras."""
        keys = matching(self.obs_stack_keys, sorted(observations))
        if not keys:
            return None
        images = jnp.concatenate([leaf_at(observations, key) for key in keys], axis=-1)
        goals = self._goals(observations, tasks)
        if goals:
            goal = jnp.concatenate(goals, axis=-1)[:, None]
            goal = jnp.broadcast_to(goal, (*images.shape[:-1], goal.shape[-1])).astype(images.dtype)
            images = jnp.concatenate([images, goal], axis=-1)
        batch, history = images.shape[:2]
        kind = nn.remat(self.encoder) if self.remat else self.encoder
        encoder = kind(**self.encoder_kwargs, name=f"{self.encoder_name}_0")
        features = encoder(images.reshape(batch * history, *images.shape[2:]))
        tokens = features.reshape(batch, history, -1, features.shape[-1])
        if not self.proper_pad_mask:
            return TokenGroup(tokens, jnp.ones(tokens.shape[:-1], dtype=bool))
        return TokenGroup(tokens, mask_from_inputs(observations, keys, tokens.shape[:-1]))

    def _goals(self, observations: Inputs, tasks: Inputs) -> list[Num[Array, "batch height width colour"]]:
        wanted = matching(self.task_stack_keys, observations) if self.task_stack_keys else []
        missing = {key: leaf_at(observations, key)[:, 0] for key in wanted if key not in tasks}
        filled = {**tasks, **{key: jnp.zeros_like(image) for key, image in missing.items()}}
        return [leaf_at(filled, key) for key in matching(self.task_stack_keys, sorted(filled))]


class LanguageTokenizer(nn.Module):
    """A T5 encoder over `tasks["language_instruction"]`: tokens [B, L, width].

    All L tokens count as real where the instruction is there: Octo attends to the padding too.
    """

    sizes: T5Sizes
    finetune_encoder: bool = False
    proper_pad_mask: bool = True

    @nn.compact
    def __call__(self, observations: Inputs, tasks: Inputs, train: bool = False) -> TokenGroup | None:
        """Tokenise; None where no instruction is given."""
        if "language_instruction" not in tasks:
            return None
        given = branch(tasks, "language_instruction")
        tokens = T5Encoder(self.sizes, name="hf_model")(leaf_at(given, "input_ids"), leaf_at(given, "attention_mask"))
        if not self.finetune_encoder:
            tokens = jax.lax.stop_gradient(tokens)
        if not self.proper_pad_mask:
            return TokenGroup(tokens, jnp.ones(tokens.shape[:-1], dtype=bool))
        return TokenGroup(tokens, mask_from_inputs(tasks, ["language_instruction"], tokens.shape[:-1]))


class WordTokenizer(nn.Module):
    """Hashed word embeddings: `input_ids` [B, L, hashes] -> tokens [B, L, features], padding masked.

    A word is the sum of one row for each of its hashes (Svenstrup et al., "Hash Embeddings", 2017): no vocabulary to
    carry, and with two hashes two words share all rows with probability 1 / buckets^2.
    """

    buckets: int = 512
    hashes: int = 2
    features: int = 64
    max_length: int = 12
    trainable: bool = True

    @nn.compact
    def __call__(self, observations: Inputs, tasks: Inputs, train: bool = False) -> TokenGroup | None:
        """Tokenise; None where no instruction is given."""
        if "language_instruction" not in tasks:
            return None
        given = branch(tasks, "language_instruction")
        table = nn.Embed(self.buckets, self.features, embedding_init=nn.initializers.normal(1.0), name="words")
        tokens = table(leaf_at(given, "input_ids")).sum(axis=-2)
        if not self.trainable:
            tokens = jax.lax.stop_gradient(tokens)
        there = mask_from_inputs(tasks, ["language_instruction"], tokens.shape[:-1])
        return TokenGroup(tokens, there & (leaf_at(given, "attention_mask") > 0))


class LowdimObsTokenizer(nn.Module):
    """Low-dimensional observations [B, T, S] -> S tokens a step, of one number each or of a one-hot bin.

    As in the original its tokens always count as real: a state that is not there stands at its mean, not masked out.
    Keys follow the order of their patterns.
    """

    obs_keys: Sequence[str] = ()
    discretize: bool = False
    n_bins: int = 256
    bin_type: str = "uniform"
    low: float | None = None
    high: float | None = None
    proper_pad_mask: bool = True

    @nn.compact
    def __call__(self, observations: Inputs, tasks: Inputs, train: bool = False) -> TokenGroup | None:
        """Tokenise; None where the observations have none of the keys."""
        keys = [key for pattern in self.obs_keys for key in matching([pattern], sorted(observations))]
        if not keys:
            return None
        values = jnp.concatenate([leaf_at(observations, key) for key in keys], axis=-1)
        bins = Bins.of(self.n_bins, self.bin_type, self.low, self.high)
        tokens = jax.nn.one_hot(bins.index(values), self.n_bins) if self.discretize else values[..., None]
        return TokenGroup(tokens, jnp.ones(tokens.shape[:-1], dtype=bool))


class StateTokenizer(nn.Module):
    """Low-dimensional observations [B, T, S] -> one token a step holding all S numbers.

    Octo's own tokeniser makes a token of every number; one linear map of the whole state is learned far sooner.
    """

    obs_keys: Sequence[str] = ("proprio",)

    @nn.compact
    def __call__(self, observations: Inputs, tasks: Inputs, train: bool = False) -> TokenGroup | None:
        """Tokenise; None where the observations have none of the keys."""
        keys = matching(self.obs_keys, sorted(observations))
        if not keys:
            return None
        tokens = jnp.concatenate([leaf_at(observations, key) for key in keys], axis=-1)[:, :, None]
        return TokenGroup(tokens, mask_from_inputs(observations, keys, tokens.shape[:-1]))
