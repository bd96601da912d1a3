"""An Octo's loss as a function of its named weights, for measuring many sets of weights on the same windows."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from xp.models.octo.policy import OctoPolicy, grown
from xp.models.policy import Batch
from xp.models.tree import unflatten


def loss_inputs(policy: OctoPolicy, batch: Batch, rows: int) -> tuple[dict[str, np.ndarray], int]:
    """A batch of at most `rows` windows as inputs of `loss_function`, and how many action values count in its mean.

    Rows are filled up to `rows`, so that every batch has one shape; what is filled in counts in no mean.
    """
    inputs = policy.assembly.prepare(batch)
    total = len(inputs["observation/timestep_pad_mask"])
    filled = grown(inputs, rows - total)
    filled["observation/timestep_pad_mask"] = filled["observation/timestep_pad_mask"].copy()
    filled["observation/timestep_pad_mask"][total:] = False
    real = filled["observation/timestep_pad_mask"][:, :, None, None]
    return filled, int((filled["action_pad_mask"] & real).sum())


def loss_function(policy: OctoPolicy) -> Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], jax.Array]:
    """`loss(weights, inputs)`: the training objective in evaluation mode; weights flat by path. Pure, not compiled.

    Heads that draw noise take the draws among the inputs, so there is no randomness left.
    """

    def loss(weights: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> jax.Array:
        value, _ = policy.assembly.network.loss(unflatten(weights), inputs, jax.random.key(0), False)
        return value

    return loss


def with_weights(policy: OctoPolicy, weights: Mapping[str, np.ndarray]) -> OctoPolicy:
    """The same policy with other weights, which are copied."""
    return OctoPolicy(policy.assembly, unflatten({path: np.array(array) for path, array in weights.items()}))
