"""Where arrays are placed when several devices share a training, by `jax.sharding`; XLA adds the communication.

`data`: every device has all weights and works on its part of the batch. `fsdp`: weights, moments and averages are split
over the devices as well, each along its longest axis that divides evenly, and gathered where they are used (the idea of
ZeRO stage 3: Rajbhandari et al. 2020). Both compute what one device computes, up to the order of sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xp.checkpoints.arrays import Array
from xp.errors import UserError
from xp.models.tree import Tree

type Inputs = Mapping[str, jax.Array]
"""A model's inputs on the device (or devices), each [B, ...]."""
type Weights = dict[str, jax.Array]
"""Weights by path, joined by '/'."""
type WeightTree = Tree[jax.Array]
"""Weights in nested dicts, as Flax has them."""

AXIS = "devices"


@dataclass(frozen=True)
class OneDevice:
    """Everything on the default device."""

    def place_inputs(self, batch: Mapping[str, Array]) -> Inputs:
        """A prepared batch, on its way to the device."""
        return jax.device_put(dict(batch))

    def place[Tree](self, tree: Tree) -> Tree:
        """Weights, or a whole state, on the device."""
        return jax.device_put(tree)

    def constrain[Tree](self, tree: Tree) -> Tree:
        """The same inside a compiled function: nothing to say."""
        return tree


@dataclass(frozen=True)
class Sharded:
    """Arrays laid out over a mesh of devices with one axis."""

    mesh: Mesh
    split_weights: bool

    def place_inputs(self, batch: Mapping[str, Array]) -> Inputs:
        """A prepared batch, split along its first axis."""
        size, devices = next(iter(batch.values())).shape[0], self.mesh.size
        if size % devices:
            raise UserError(
                f"trainer.sharding shares each batch over {devices} devices, and {size} windows do not divide evenly. "
                f"Type trainer.batch_size={max(size // devices, 1) * devices}, or trainer.sharding=none."
            )
        return jax.device_put(dict(batch), NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def place[Tree](self, tree: Tree) -> Tree:
        """Weights, or a whole state, laid out over the mesh."""
        return jax.device_put(tree, jax.tree.map(self._of, tree))

    def constrain[Tree](self, tree: Tree) -> Tree:
        """The same inside a compiled function, so that a state comes out as it went in."""
        return jax.lax.with_sharding_constraint(tree, jax.tree.map(self._of, tree))

    def _of(self, array: Array) -> NamedSharding:
        shape = array.shape
        axes = [axis for axis, length in enumerate(shape) if length and length % self.mesh.size == 0]
        if not self.split_weights or not axes:
            return NamedSharding(self.mesh, PartitionSpec())
        axis = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[AXIS if i == axis else None for i in range(len(shape))]))


Placement = OneDevice | Sharded


def make_placement(kind: str) -> Placement:
    """The placement that `trainer.sharding` names, over every device JAX sees.

    Raises:
        UserError: there is one device only.
    """
    if kind == "none":
        return OneDevice()
    devices = jax.devices()
    if len(devices) < 2:
        raise UserError(
            f"trainer.sharding={kind} shares the work over several devices, and JAX sees one ({devices[0].platform}). "
            "Type trainer.sharding=none, or make more devices visible."
        )
    return Sharded(Mesh(np.asarray(devices), (AXIS,)), split_weights=kind == "fsdp")
