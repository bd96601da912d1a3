"""Where arrays of a training run lie when several devices share it: by `jax.sharding`, with XLA adding the traffic.

`data`: every device has all weights and works on its part of the batch. `fsdp`: weights, moments and averages are split
over the devices as well, each along its longest axis that divides evenly, and gathered where they are used (the idea of
ZeRO stage 3: Rajbhandari et al. 2020). Both compute what one device computes, up to the order of sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xp.errors import UserError

AXIS = "devices"


@dataclass(frozen=True)
class OneDevice:
    """Everything on the default device."""

    def inputs(self, batch: Mapping[str, Any]) -> Any:
        """A prepared batch, on its way to the device."""
        return jax.device_put(dict(batch))

    def weights(self, tree: Any) -> Any:
        """Weights, or a whole state, on the device."""
        return jax.device_put(tree)

    def kept(self, tree: Any) -> Any:
        """The same inside a compiled function: nothing to say."""
        return tree


@dataclass(frozen=True)
class Sharded:
    """Arrays laid out over a mesh of devices with one axis."""

    mesh: Mesh
    split_weights: bool

    def inputs(self, batch: Mapping[str, Any]) -> Any:
        """A prepared batch, split along its first axis."""
        size, devices = next(iter(batch.values())).shape[0], self.mesh.size
        if size % devices:
            raise UserError(
                f"trainer.sharding shares each batch over {devices} devices, and {size} windows do not divide evenly. "
                f"Type trainer.batch_size={max(size // devices, 1) * devices}, or trainer.sharding=none."
            )
        return jax.device_put(dict(batch), NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def weights(self, tree: Any) -> Any:
        """Weights, or a whole state, laid out over the mesh."""
        return jax.device_put(tree, jax.tree.map(self._of, tree))

    def kept(self, tree: Any) -> Any:
        """The same inside a compiled function, so that a state comes out as it went in."""
        return jax.lax.with_sharding_constraint(tree, jax.tree.map(self._of, tree))

    def _of(self, array: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(array.shape) if length and length % self.mesh.size == 0]
        if not self.split_weights or not axes:
            return NamedSharding(self.mesh, PartitionSpec())
        axis = max(axes, key=lambda axis: array.shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[AXIS if i == axis else None for i in range(array.ndim)]))


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
