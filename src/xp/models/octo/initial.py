"""Fresh weights, drawn in numpy from (seed, path): the same on every machine, whatever else the model holds.

Drawing them in one compiled XLA function would cost octo_tiny 15 CPU-seconds of compilation, for a millisecond of work.
The distributions are those of Octo's own initialisers.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import erfinv

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def initial_weights(shapes: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """A float32 array for every path of `shapes` (anything with `.shape`); each depends on its own path and `seed`."""
    return {path: _initial(path, tuple(leaf.shape), seed) for path, leaf in shapes.items()}


def _initial(path: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    words = np.frombuffer(hashlib.blake2b(path.encode(), digest_size=16).digest(), dtype=np.uint32)
    rng = np.random.default_rng([seed, *(int(word) for word in words)])
    draw = next(rule for pattern, rule in _RULES if re.search(pattern, path))
    return draw(rng, shape).astype(np.float32)


def _normal(deviation: float) -> Draw:
    return lambda rng, shape: rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


def _constant(value: float) -> Draw:
    return lambda rng, shape: np.full(shape, value, dtype=np.float32)


def _lecun(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal truncated at two deviations, variance 1 / fan_in (LeCun et al. 1998); fan_in = all axes but the last."""
    bound = math.erf(math.sqrt(2))
    uniform = rng.uniform(-bound, bound, shape)
    deviation = 1 / math.sqrt(math.prod(shape[:-1])) / 0.87962566103423978  # deviation lost to the truncation
    return math.sqrt(2) * erfinv(uniform) * deviation


def _xavier(split: int) -> Draw:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010); the fans are the axes around `split`."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        fans = math.prod(shape[:split]) + math.prod(shape[split:])
        bound = math.sqrt(6 / fans)
        return rng.uniform(-bound, bound, shape)

    return draw


_RULES: tuple[tuple[str, Draw], ...] = (
    (r"_pos_embedding$", _normal(0.02)),
    (r"/(scale|weight)$", _constant(1.0)),
    (r"/bias$", _constant(0.0)),
    (r"MultiHeadDotProductAttention_0/(query|key|value)/kernel$", _xavier(1)),
    (r"MultiHeadDotProductAttention_0/out/kernel$", _xavier(-1)),
    (r"(MlpBlock_0|cond_encoder|reverse_network|model|ConditionalResidualBlock1D_\d+)/Dense_\d/kernel$", _xavier(-1)),
    (r"map_head/probe$", _xavier(-1)),
    (r"time_preprocess/kernel$", _normal(0.2)),
    (r"scale_proj/kernel$", _normal(0.01)),
    (r"relative_attention_bias/embedding$", _normal(0.02)),
    (r"/embedding$", _normal(1.0)),
    (r"/kernel$", _lecun),
)
"""First match wins. A weight that no rule matches is a mistake in this table."""
