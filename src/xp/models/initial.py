"""Draws initial weights in numpy from (seed, path): the same on every machine, whatever else the model holds.

Drawing them in one compiled XLA function would cost a small model 15 CPU-seconds of compilation, for a millisecond of
work.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import erfinv

from xp.models.tree import HasShape

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""An array of a shape, from a generator."""
Rules = Sequence[tuple[str, Draw]]
"""(pattern of paths, how they are drawn); the first that matches counts."""


def drawn_weights(shapes: Mapping[str, HasShape], seed: int, rules: Rules) -> dict[str, Float32[np.ndarray, "..."]]:
    """An array for every path of `shapes`; each depends on its own path and `seed`. A path without a rule is a bug."""
    return {path: _drawn(path, tuple(leaf.shape), seed, rules) for path, leaf in shapes.items()}


def _drawn(path: str, shape: tuple[int, ...], seed: int, rules: Rules) -> Float32[np.ndarray, "..."]:
    words = np.frombuffer(hashlib.blake2b(path.encode(), digest_size=16).digest(), dtype=np.uint32)
    rng = np.random.default_rng([seed, *(int(word) for word in words)])
    draw = next(rule for pattern, rule in rules if re.search(pattern, path))
    return draw(rng, shape).astype(np.float32)


def normal(deviation: float) -> Draw:
    """Normal, of mean 0."""
    return lambda rng, shape: rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


def constant(value: float) -> Draw:
    """The same number everywhere."""
    return lambda rng, shape: np.full(shape, value, dtype=np.float32)


def lecun(inputs: Sequence[int] | None = None) -> Draw:
    """Normal truncated at two deviations, variance 1 / fan_in (LeCun et al. 1998).

    `inputs` are the axes whose lengths make fan_in; None: all but the last.
    """

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        bound = math.erf(math.sqrt(2))
        uniform = rng.uniform(-bound, bound, shape)
        fan = math.prod(shape[:-1]) if inputs is None else math.prod(shape[axis] for axis in inputs)
        deviation = 1 / math.sqrt(fan) / 0.87962566103423978  # deviation lost to the truncation
        return math.sqrt(2) * erfinv(uniform) * deviation

    return draw


def xavier(split: int, skip: int = 0) -> Draw:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010); the fans are the axes around `split`.

    The first `skip` axes count copies (layers of a stack) and belong to neither.
    """

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        own = shape[skip:]
        bound = math.sqrt(6 / (math.prod(own[:split]) + math.prod(own[split:])))
        return rng.uniform(-bound, bound, shape)

    return draw
