"""The network as functions on weights: initialise, loss, predict, density; compiled once for each shape."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from xp.models.octo.heads import Density
from xp.models.octo.network.module import OctoModule
from xp.models.tree import flatten, unflatten

Flat = Mapping[str, np.ndarray]


class Network:
    """An OctoModule and its compiled functions, shared by every policy made from it.

    `inputs` are flat, as `Prepare` makes them; `weights` are the nested parameters.
    """

    def __init__(self, module: OctoModule) -> None:
        """Nothing is traced until a function is called."""
        self.module = module
        self.evaluate = jax.jit(lambda weights, inputs, key: self.loss(weights, inputs, key, False))
        self.density = jax.jit(self._density)
        options = ("sample_shape", "argmax", "embodiment_action_dim")
        self.predict_rows = jax.jit(self._predict_rows, static_argnames=options)
        self.predict_batch = jax.jit(self._predict_batch, static_argnames=options)

    def shapes(self, inputs: Flat) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape of every weight, flat by path, without computing any.

        Layers of a stack are alike: a network with one of each kind is traced, which for octo-base is ten times faster.
        """
        module, copies = self.module.shallow()
        traced = flatten(jax.eval_shape(partial(_init, module), jax.random.key(0), dict(inputs)))
        grown = {}
        for path, leaf in traced.items():
            grown[path] = leaf
            for layer, names in copies.items():
                if layer in path:
                    grown.update({path.replace(layer, name): leaf for name in names})
        return grown

    def _apply(self, *args: Any, **options: Any) -> Any:
        return self.module.apply(*args, **options)

    def loss(self, weights: Any, inputs: Flat, key: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The objective and its parts; pure, to be compiled by the caller. `key` drives dropout and diffusion."""
        tree = {"task": {}, **unflatten(inputs)}
        return self._apply({"params": weights}, tree, train=train, method="loss", rngs={"dropout": key})

    def _density(self, weights: Any, inputs: Flat) -> Density | None:
        return self._apply({"params": weights}, {"task": {}, **unflatten(inputs)}, method="density")

    def _predict_batch(self, weights: Any, inputs: Flat, key: jax.Array, temperature: Any, **options: Any) -> jax.Array:
        """One key for the whole batch, as the original draws."""
        tree = {"task": {}, **unflatten(inputs)}
        options = {name: value for name, value in options.items() if value is not None}
        return self._apply({"params": weights}, tree, key, temperature=temperature, method="predict", **options)

    def _predict_rows(self, weights: Any, inputs: Flat, keys: jax.Array, temperature: Any, **options: Any) -> jax.Array:
        """One key a row: what a row draws does not depend on the rows beside it."""
        variables = {"params": weights}
        tree = {"task": {}, **unflatten(inputs)}
        observation = tree["observation"]
        real = observation["timestep_pad_mask"]
        groups = self._apply(variables, observation, tree["task"], real, method="embed")
        needed = {self.module.heads["action"].readout_key: groups[self.module.heads["action"].readout_key]}
        options = {name: value for name, value in options.items() if value is not None}

        def row(group: Any, key: jax.Array) -> jax.Array:
            single = jax.tree.map(lambda leaf: leaf[None], group)
            out = self._apply(variables, single, key, temperature=temperature, method="sample", **options)
            return out[..., 0, :, :]

        return jax.vmap(row, out_axes=len(options.get("sample_shape", ())))(needed, keys)


def _init(module: OctoModule, key: jax.Array, inputs: Flat) -> Any:
    tree = unflatten(inputs)
    real = tree["observation"]["timestep_pad_mask"]
    return module.init(key, tree["observation"], tree.get("task", {}), real)["params"]
