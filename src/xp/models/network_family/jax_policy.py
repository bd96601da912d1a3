"""A JAX network with its inputs, for training (`build`) and for use (`load`)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from xp.models.jax_device import jax_device
from xp.models.jax_keys import row_keys
from xp.models.network_family.folder import read_fitting_weights, read_weights, write_weights
from xp.models.network_family.inputs import (
    ACTION,
    IS_PAD,
    Inputs,
    refuse_predict_options,
)
from xp.models.network_family.jax_network import JaxNetwork
from xp.models.observation import IMAGES, refuse_without_actions
from xp.models.policy import Batch, Framework, Seed
from xp.models.trainable import JaxTrainable, LoadReport
from xp.models.tree import flatten, unflatten

ROWS = (1, 8, 32)
"""Batch sizes that are compiled; a batch is cut into the largest and its rest padded to the next."""


class Compiled:
    """A network with its inputs, and its functions compiled once for all policies of it."""

    def __init__(self, inputs: Inputs, network: JaxNetwork) -> None:
        self.inputs, self.network = inputs, network
        self.chunk = jax.jit(self._chunk)
        self.evaluate = jax.jit(lambda weights, inputs, key: self.loss(weights, inputs, key, False))

    def init(self, key: jax.Array) -> Any:
        """Fresh weights."""
        return self.network.init(key, as_float(self.inputs.example()))

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape of every weight by path, without computing any."""
        return flatten(jax.eval_shape(self.init, jax.random.key(0)))

    def loss(
        self, weights: Any, inputs: Mapping[str, Any], key: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The network's own objective, or the mean absolute error over actions that are no padding; pure."""
        given = as_float(inputs)
        if self.network.loss is not None:
            return self.network.loss(weights, given, key, train)
        error = jnp.abs(self.network.chunk(weights, given, key) - given[ACTION]).mean(-1)
        valid = (~given[IS_PAD]).astype(error.dtype)
        return (error * valid).sum() / jnp.maximum(valid.sum(), 1), {}

    def _chunk(self, weights: Any, inputs: Mapping[str, Any], keys: jax.Array) -> jax.Array:
        """One key a row: what a row draws does not depend on the rows beside it."""

        def row(one: Any, key: jax.Array) -> jax.Array:
            return self.network.chunk(weights, jax.tree.map(lambda leaf: leaf[None], one), key)[0]

        return jax.vmap(row)(as_float(inputs), keys)


class JaxNetworkPolicy:
    """Observations in, action chunks in dataset units out.

    Weights given as jax arrays are not copied: a training loop that donates them must make the policy from what it
    keeps.
    """

    framework: ClassVar[Framework] = "jax"

    def __init__(self, compiled: Compiled, weights: Any, device: Any = None) -> None:
        """`weights` are nested; they are put on `device`, or where jax puts things."""
        self.compiled, self.spec = compiled, compiled.inputs.spec
        self._weights = jax.device_put(weights, device)

    @property
    def camera_slots(self) -> Mapping[str, str]:
        """See `Policy.camera_slots`."""
        return self.compiled.inputs.described.fed

    def predict(self, observation: Batch, *, seed: Seed = 0, **options: Any) -> np.ndarray:
        """Actions [B, H, A] float32 in dataset units; `seed` fixes every draw."""
        refuse_predict_options(options)
        inputs, done, parts = self.compiled.inputs.observed(observation), 0, []
        for piece, size in _pieces(inputs):
            rows = len(next(iter(piece.values())))
            parts.append(np.asarray(self.compiled.chunk(self._weights, piece, row_keys(seed, done, rows)))[:size])
            done += size
        return self.compiled.inputs.actions(np.concatenate(parts))

    def predict_distribution(self, observation: Batch) -> None:
        """These networks have no density."""

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective (`loss`) and its parts on one batch, in evaluation mode."""
        refuse_without_actions(batch)
        rows = len(np.asarray(batch[ACTION]))
        size = next((size for size in ROWS if size >= rows), -(-rows // ROWS[-1]) * ROWS[-1])
        inputs, _ = self.loss_inputs(batch, size)
        value, parts = self.compiled.evaluate(self._weights, inputs, jax.random.key(seed))
        return {"loss": float(value), **{name: float(part) for name, part in parts.items()}}

    def prepare(self, batch: Batch) -> dict[str, np.ndarray]:
        """A batch as the network's inputs, on the host."""
        return self.compiled.inputs.prepare(batch)

    def loss_inputs(self, batch: Batch, rows: int) -> tuple[dict[str, np.ndarray], int]:
        """See `JaxPolicy.loss_inputs`."""
        inputs = self.prepare(batch)
        real = len(inputs[ACTION])
        filled = _grown(inputs, rows - real)
        filled[IS_PAD] = filled[IS_PAD].copy()
        filled[IS_PAD][real:] = True
        return filled, int((~filled[IS_PAD]).sum()) * self.spec.action_dim

    def loss_function(self) -> Callable[[Mapping[str, Any], Mapping[str, Any]], jax.Array]:
        """See `JaxPolicy.loss_function`."""
        return lambda weights, inputs: self.compiled.loss(unflatten(weights), inputs, jax.random.key(0), False)[0]

    def weights(self) -> Mapping[str, np.ndarray]:
        """Every weight by its path, joined by '/'."""
        return flatten(jax.device_get(self._weights))

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "JaxNetworkPolicy":
        """The same policy with other weights, which are copied."""
        return JaxNetworkPolicy(self.compiled, unflatten({path: np.array(array) for path, array in weights.items()}))

    def save(self, folder: Path) -> None:
        """Write the policy folder; `load_policy(folder)` gives this policy back exactly."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.compiled.inputs.described.write(folder)
        write_weights(folder, self.weights())


def build(network: JaxNetwork, inputs: Inputs, *, seed: int, pretrained: Path | None) -> JaxTrainable:
    """A new policy to train, from the weights of `pretrained` that fit by name and shape."""
    compiled = Compiled(inputs, network)
    weights, report = flatten(jax.jit(compiled.init)(jax.random.key(seed))), LoadReport()
    if pretrained:
        fits, report = read_fitting_weights(pretrained, _shapes(weights))
        weights |= {path: array.astype(np.float32) for path, array in fits.items()}
    return JaxTrainable(
        spec=compiled.inputs.spec,
        prepare=compiled.inputs.prepare,
        policy=lambda weights: JaxNetworkPolicy(compiled, weights),
        load_report=report,
        weights=unflatten(weights),
        loss=compiled.loss,
    )


def load(network: JaxNetwork, inputs: Inputs, folder: Path, device: str | None) -> JaxNetworkPolicy:
    """A saved policy, every weight accounted for.

    Raises:
        UserError: weights that do not fit the description, or an unknown device.
    """
    compiled = Compiled(inputs, network)
    found = read_weights(folder, _shapes(compiled.shapes()))
    weights = unflatten({path: array.astype(np.float32) for path, array in found.items()})
    return JaxNetworkPolicy(compiled, weights, jax_device(device))


def _shapes(leaves: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


def as_float(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as the network takes them: pictures uint8 become float32 of 0 to 1."""
    return {
        name: jnp.asarray(value, jnp.float32) / 255.0 if name.startswith(IMAGES) else value
        for name, value in inputs.items()
    }


def _pieces(inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Cut into batches of compiled sizes: (padded piece, rows that are real)."""
    total = len(next(iter(inputs.values())))
    for start in range(0, total, ROWS[-1]):
        size = min(ROWS[-1], total - start)
        padding = next(rows for rows in ROWS if rows >= size) - size
        yield _grown({path: leaf[start : start + size] for path, leaf in inputs.items()}, padding), size


def _grown(inputs: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """With `rows` copies of the last row appended."""
    return {path: np.concatenate([leaf, np.repeat(leaf[-1:], rows, axis=0)]) for path, leaf in inputs.items()}
