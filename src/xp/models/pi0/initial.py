"""Initial weights of a pi0 that is made from nothing, by the distributions of openpi's own initialisers.

But for one: openpi begins with an image projection of zeros, under pretrained weights. Here it is drawn, so that a
small model sees its pictures from the first step on.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from xp.models.initial import Rules, constant, drawn_weights, lecun, normal, xavier
from xp.models.tree import HasShape


def initial_weights(shapes: Mapping[str, HasShape], seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
    """An array for every path of `shapes`; each depends on its own path and `seed`."""
    return drawn_weights(shapes, seed, _RULES)


_RULES: Rules = (
    (r"/img/pos_embedding$", lambda rng, shape: normal(shape[-1] ** -0.5)(rng, shape)),
    (r"/img/.*MlpBlock_0/Dense_\d/bias$", normal(1e-6)),
    (r"/img/.*MlpBlock_0/Dense_\d/kernel$", xavier(-1, skip=1)),
    (r"/img/.*/(query|key|value)/kernel$", xavier(1, skip=1)),
    (r"/img/.*/out/kernel$", xavier(-1, skip=1)),
    (r"/img/.*/scale$", constant(1.0)),
    (r"/llm/.*/scale$", constant(0.0)),  # Gemma's norms multiply by 1 + scale
    (r"/llm/.*/Dense_0/kernel$", constant(0.0)),  # adaptive norms begin as plain ones, gates as 0
    (r"/input_embedding$", normal(1.0)),
    (r"lora_[ab]$", normal(0.01)),
    (r"/attn_vec_einsum(_1)?/w$", lecun((-3, -2))),
    (r"/(q|kv)_einsum(_1)?/w$", lecun((-2,))),
    (r"/(gating_einsum|linear)$", lecun((-2,))),
    (r"/bias$", constant(0.0)),
    (r"kernel$", lecun()),
)
"""First match wins. A weight that no rule matches is a mistake in this table."""
