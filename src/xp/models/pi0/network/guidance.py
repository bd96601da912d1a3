"""The guidance of real-time chunking in JAX; what it is for: `xp.models.pi0.real_time`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

type Velocity = Callable[[Float[Array, "batch horizon dim"]], Float[Array, "batch horizon dim"]]
"""The velocity of noisy actions at one time."""


def guided_velocity(
    velocity: Velocity,
    noisy: Float[Array, "batch horizon dim"],
    time: Float[Array, ""],
    plan: Float[Array, "batch horizon dim"],
    mask: Float[Array, "batch horizon"],
    most: Float[Array, " batch"],
) -> Float[Array, "batch horizon dim"]:
    """The velocity (noise - actions) that leads nearer to the plan: the paper's guidance, its time turned round.

    The difference between the plan and the actions that are expected now, weighed by the mask, is carried back through
    what the network makes of the noisy actions (a vector-Jacobian product).

    Args:
        velocity: at this time.
        noisy: the actions on their way.
        time: 1 is noise, 0 actions.
        plan: what they shall fall in with.
        mask: how much, each step.
        most: the largest weight (beta).
    """

    def expected(x: Array) -> tuple[Array, Array]:
        found = velocity(x)
        return x - time * found, found

    clean, carry_back, found = jax.vjp(expected, noisy, has_aux=True)
    (pull,) = carry_back(((plan - clean) * mask[..., None]).astype(clean.dtype))
    weight = jnp.minimum(most, (time**2 + (1 - time) ** 2) / (time * (1 - time)))
    return found - weight[:, None, None] * pull
