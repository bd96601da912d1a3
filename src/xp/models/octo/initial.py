"""Initial weights of an Octo, by the distributions of Octo's own initialisers."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from xp.models.initial import Rules, constant, drawn_weights, lecun, normal, xavier
from xp.models.tree import HasShape


def initial_weights(shapes: Mapping[str, HasShape], seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
    """An array for every path of `shapes`; each depends on its own path and `seed`."""
    return drawn_weights(shapes, seed, _RULES)


_RULES: Rules = (
    (r"_pos_embedding$", normal(0.02)),
    (r"/(scale|weight)$", constant(1.0)),
    (r"/bias$", constant(0.0)),
    (r"MultiHeadDotProductAttention_0/(query|key|value)/kernel$", xavier(1)),
    (r"MultiHeadDotProductAttention_0/out/kernel$", xavier(-1)),
    (r"(MlpBlock_0|cond_encoder|reverse_network|model|ConditionalResidualBlock1D_\d+)/Dense_\d/kernel$", xavier(-1)),
    (r"map_head/probe$", xavier(-1)),
    (r"time_preprocess/kernel$", normal(0.2)),
    (r"scale_proj/kernel$", normal(0.01)),
    (r"relative_attention_bias/embedding$", normal(0.02)),
    (r"/embedding$", normal(1.0)),
    (r"/kernel$", lecun()),
)
"""First match wins. A weight that no rule matches is a mistake in this table."""
