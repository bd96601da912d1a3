"""The network as functions on weights: initialise, loss, predict, density; compiled once for each shape."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from xp.models.octo.heads import Density
from xp.models.octo.heads.base import DrawOptions, Parts, RandomKey, Temperature
from xp.models.octo.network.module import OctoModule
from xp.models.octo.network.tokenizers import Inputs, TokenGroup
from xp.models.tree import Tree, branch, flatten, leaf_at, unflatten

type Flat = Mapping[str, Array | np.ndarray]
"""Inputs by path: numpy arrays on the host, jax arrays where a compiled function has them."""
type Weights = Tree[Array | np.ndarray]
"""The nested parameters."""


class Network:
    """An OctoModule and its compiled functions, shared by every policy made from it.

    `inputs` are flat, as `Prepare` makes them.
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
        whole = {}
        for path, leaf in traced.items():
            whole[path] = leaf
            for layer, names in copies.items():
                if layer in path:
                    whole.update({path.replace(layer, name): leaf for name in names})
        return whole

    def _apply(self, *args: Any, **options: Any) -> Any:
        return self.module.apply(*args, **options)

    def loss(self, weights: Weights, inputs: Flat, key: RandomKey, train: bool) -> tuple[Float[Array, ""], Parts]:
        """The objective and its parts; pure, to be compiled by the caller. `key` drives dropout and diffusion."""
        tree = _tree(inputs)
        return self._apply({"params": weights}, tree, train=train, method="loss", rngs={"dropout": key})

    def _density(self, weights: Weights, inputs: Flat) -> Density | None:
        return self._apply({"params": weights}, _tree(inputs), method="density")

    def _predict_batch(
        self,
        weights: Weights,
        inputs: Flat,
        key: RandomKey,
        temperature: Temperature,
        **options: Unpack[DrawOptions],
    ) -> Float[Array, "*draws batch horizon action"]:
        """One key for the whole batch, as the original draws."""
        tree = _tree(inputs)
        return self._apply({"params": weights}, tree, key, temperature=temperature, method="predict", **options)

    def _predict_rows(
        self,
        weights: Weights,
        inputs: Flat,
        keys: Key[Array, " batch"],
        temperature: Temperature,
        **options: Unpack[DrawOptions],
    ) -> Float[Array, "*draws batch horizon action"]:
        """One key a row: what a row draws does not depend on the rows beside it."""
        variables = {"params": weights}
        tree = _tree(inputs)
        observation = branch(tree, "observation")
        real = leaf_at(observation, "timestep_pad_mask")
        groups = self._apply(variables, observation, branch(tree, "task"), real, method="embed")
        needed = {self.module.heads["action"].readout_key: groups[self.module.heads["action"].readout_key]}

        def row(group: Mapping[str, TokenGroup], key: RandomKey) -> Float[Array, "*draws horizon action"]:
            single = jax.tree.map(lambda leaf: leaf[None], group)
            out = self._apply(variables, single, key, temperature=temperature, method="sample", **options)
            return out[..., 0, :, :]

        return jax.vmap(row, out_axes=len(options.get("sample_shape", ())))(needed, keys)


def _tree(inputs: Flat) -> Inputs:
    """The inputs nested, all of them jax arrays, with a task though there be nothing in it."""
    arrays = {path: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf for path, leaf in inputs.items()}
    return {"task": {}, **unflatten(arrays)}


def _init(module: OctoModule, key: RandomKey, inputs: Flat) -> Weights:
    tree = _tree(inputs)
    observation = branch(tree, "observation")
    real = leaf_at(observation, "timestep_pad_mask")
    return module.init(key, observation, branch(tree, "task"), real)["params"]
