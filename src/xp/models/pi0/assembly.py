"""A pi0 in JAX without its weights: the network, and the way in and out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import jax
from jaxtyping import Array, Float, Key

from xp.errors import UserError
from xp.models.misfit import misfit
from xp.models.pi0.interface import Interface
from xp.models.pi0.network.flow import Network
from xp.models.pi0.network.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class Assembly(Interface):
    """A model without its weights, and its functions, compiled once for all policies of it."""

    network: Network

    @cached_property
    def evaluate(self):  # noqa: ANN201 - a compiled function
        """`evaluate(weights, inputs, key)`: the objective and its parts, in evaluation mode."""
        return jax.jit(lambda weights, inputs, key: self.network.loss(weights, inputs, key, False))

    @cached_property
    def sample(self):  # noqa: ANN201 - a compiled function
        """`sample(weights, inputs, noise, steps)`: normalised chunks."""
        return jax.jit(self.network.sample, static_argnums=3)

    def noise(self, keys: Key[Array, " batch"]) -> Float[Array, "batch horizon width"]:
        """What sampling begins with, a key a row: what a row draws does not depend on the rows beside it."""
        return jax.vmap(partial(jax.random.normal, shape=(self.prepare.horizon, self.prepare.width)))(keys)


def assemble(sizes: Sizes, interface: Interface, *, remat: bool = False) -> Assembly:
    """Put a model together; `remat` as in `Network.remat`."""
    notes, counted = interface.notes, interface.counted_dims
    network = Network(sizes=sizes, dtype=notes.dtype, remat=remat, counted_dims=counted, max_delay=notes.max_delay)
    return Assembly(**vars(interface), network=network)


def check_weights(network: Network, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Check that weights are those of the network, each and no other.

    Raises:
        UserError: naming every kind of difference.
    """
    wanted = {path: tuple(leaf.shape) for path, leaf in network.shapes().items()}
    said = misfit(shapes, wanted)
    if said:
        raise UserError(
            f"The weights in {where} are not those of a {network.sizes.name} of their own sizes: the folder {said}. "
            "Give the params folder of a pi0 or pi0.5 as openpi saved it."
        )
