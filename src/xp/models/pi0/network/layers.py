"""What both halves of the network are made of: weights without memory, dense layers, and running stacked layers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

type Stack = tuple[int, ...]
"""Leading axes of the weights: (layers,) in a stack of layers, () outside."""


def weight(*shape: int) -> nnx.Param:
    """A weight of a shape, float32 and without memory: modules are made abstract and merged with arrays."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32))


class Dense(nnx.Module):
    """x @ kernel + bias on the last axis."""

    def __init__(self, stack: Stack, inputs: int, outputs: int) -> None:
        self.kernel = weight(*stack, inputs, outputs)
        self.bias = weight(*stack, outputs)

    def __call__(self, x: Float[Array, "... _in"], dtype: jnp.dtype | None = None) -> Float[Array, "... _out"]:
        """Computed in `dtype`; None: in the wider type of input and weights."""
        kernel, bias = self.kernel[...], self.bias[...]
        if dtype is None:
            dtype = jnp.promote_types(jnp.promote_types(x.dtype, kernel.dtype), bias.dtype)
        return jnp.dot(x.astype(dtype), kernel.astype(dtype)) + bias.astype(dtype)


def run_stack[Carry, Each, Out](
    layers: nnx.Module,
    body: Callable[[nnx.Module, Carry, Each], tuple[Carry, Out]],
    carry: Carry,
    each: Each,
    *,
    remat: bool = False,
) -> tuple[Carry, Out]:
    """Run stacked layers one after the other as one compiled loop.

    Args:
        layers: a module whose weights have a leading axis of layers.
        body: `body(layer, carry, each) -> (carry, out)` for one layer.
        carry: what goes from layer to layer.
        each: a pytree whose leaves have a leading axis of layers, given to the layers in turn (None: nothing).
        remat: compute the layers again in the backward pass instead of keeping what they computed.

    Returns:
        The last carry, and what the layers gave, stacked on axis 0.
    """
    graph, weights = nnx.split(layers)

    def one(carry: Carry, given: tuple[PyTree, Each]) -> tuple[Carry, Out]:
        return body(nnx.merge(graph, given[0]), carry, given[1])

    step = jax.checkpoint(one) if remat else one
    return jax.lax.scan(step, carry, (weights, each))
