"""A pi0 with its weights: the `Policy` of the family."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float32

from xp.models.jax_keys import row_keys
from xp.models.observation import refuse_without_actions
from xp.models.pi0.assembly import Assembly
from xp.models.pi0.flow_policy import Arrays, FlowPolicy
from xp.models.pi0.inputs.prepare import ACTION, IS_PAD
from xp.models.pi0.interface import PredictOptions
from xp.models.pi0.io.folder import write_step
from xp.models.pi0.network.flow import Weights
from xp.models.policy import Batch, Framework, Seed
from xp.models.tree import flatten, unflatten

ROWS = (1, 8, 32)
"""Batch sizes that are compiled; a batch is cut into the largest and its rest padded to the next."""


class Pi0Policy(FlowPolicy):
    """See `FlowPolicy`.

    Weights given as jax arrays are not copied: a training loop that donates them must make the policy from what it
    keeps.
    """

    framework: ClassVar[Framework] = "jax"

    def __init__(self, assembly: Assembly, weights: Weights, device: jax.sharding.Sharding | None = None) -> None:
        """`weights` are nested; they are put on `device`, or where jax puts things."""
        super().__init__(assembly)
        self.assembly = assembly
        self._weights: Weights = jax.device_put(weights, device)

    @property
    def given_in_training(self) -> int:
        """See `FlowPolicy`."""
        return self.assembly.network.max_delay

    def _sample(self, inputs: Arrays, asked: PredictOptions, seed: Seed) -> Float32[np.ndarray, "batch horizon width"]:
        """See `FlowPolicy`; asked in batches of compiled sizes."""
        shape = self.noise_shape(len(inputs["state"]))
        noise = asked.noise_for(shape, seed, lambda: np.asarray(self.assembly.noise(row_keys(seed, 0, shape[0]))))
        parts = [
            np.asarray(self.assembly.sample(self._weights, piece, piece.pop("noise"), asked.num_steps))[:size]
            for piece, size in _pieces({**inputs, "noise": noise})
        ]
        return np.concatenate(parts).astype(np.float32)

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective on one batch; noise and time are drawn from `seed` unless the batch has them."""
        refuse_without_actions(batch)
        total = len(np.asarray(batch[ACTION]))
        sizes = (*ROWS, -(-total // ROWS[-1]) * ROWS[-1])
        inputs, _ = self.loss_inputs(batch, next(rows for rows in sizes if rows >= total))
        value, parts = self.assembly.evaluate(self._weights, inputs, jax.random.key(seed))
        return {"loss": float(value), **{name: float(part) for name, part in parts.items()}}

    def prepare(self, batch: Batch) -> Arrays:
        """A batch as the network's inputs: normalised, tokenised, on the host."""
        return self.assembly.prepare(batch)

    def loss_inputs(self, batch: Batch, rows: int) -> tuple[Arrays, int]:
        """See `JaxPolicy.loss_inputs`."""
        inputs = self.prepare(batch)
        real = len(inputs[ACTION])
        filled = _grown(inputs, rows - real)
        filled[IS_PAD] = filled[IS_PAD].copy()
        filled[IS_PAD][real:] = True
        counted = self.assembly.network.counted_dims or self.assembly.prepare.width
        return filled, int((~filled[IS_PAD]).sum()) * counted

    def loss_function(self) -> Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], jax.Array]:
        """See `JaxPolicy.loss_function`."""

        def loss(weights: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array]) -> jax.Array:
            return self.assembly.network.loss(unflatten(weights), inputs, jax.random.key(0), False)[0]

        return loss

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "Pi0Policy":
        """The same policy with other weights, which are copied."""
        return Pi0Policy(self.assembly, unflatten({path: np.array(array) for path, array in weights.items()}))

    def weights(self) -> Mapping[str, np.ndarray]:
        """Every weight by its path in openpi's parameter tree, joined by '/'."""
        return flatten(jax.device_get(self._weights))

    def save(self, folder: Path) -> None:
        """Write openpi's folder layout, whole or not at all; `load_policy(folder)` gives this policy back exactly."""
        own = self.assembly
        write_step(Path(folder), own.step, self.weights(), own.assets, own.notes, own.tokenizer_file)


def _pieces(inputs: Arrays) -> Iterator[tuple[Arrays, int]]:
    """Cut into batches of compiled sizes: (padded piece, rows that are real)."""
    total = len(inputs["state"])
    for start in range(0, total, ROWS[-1]):
        size = min(ROWS[-1], total - start)
        padding = next(rows for rows in ROWS if rows >= size) - size
        yield _grown({name: leaf[start : start + size] for name, leaf in inputs.items()}, padding), size


def _grown(inputs: Arrays, rows: int) -> Arrays:
    """With `rows` copies of the last row appended."""
    return {name: np.concatenate([leaf, np.repeat(leaf[-1:], rows, axis=0)]) for name, leaf in inputs.items()}
