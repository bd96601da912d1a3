"""The loss of a JAX policy on a dump, with its gradient with respect to the named weights; compiled once."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from xp.data.dumps import Dump
from xp.metrics.intervals import Sums
from xp.models.policy import Batch, JaxPolicy
from xp.training.jax.sharding import Inputs, Weights
from xp.training.policy_loss import refuse_other_names, summed_by_episode

ROWS = 32
"""Windows in one pass."""


class PolicyLoss:
    """An `xp.merging.objective.Objective`: the mean over all action values of the dump that are no padding."""

    def __init__(self, policy: JaxPolicy, dump: Dump) -> None:
        self.name = f"loss on {len(dump)} windows"
        self._policy, self._dump = policy, dump
        self._shapes = {name: np.shape(array) for name, array in policy.weights().items()}
        self._shape = {"history": policy.spec.history, "horizon": policy.spec.horizon}
        made = [policy.loss_inputs(batch, ROWS) for batch in dump.batches(ROWS, **self._shape)]
        total = sum(count for _, count in made)
        self._batches = [(jax.device_put(inputs), np.float32(count / total)) for inputs, count in made]
        loss = policy.loss_function()
        self._value = jax.jit(lambda weights, inputs, share: share * loss(weights, inputs))

        def of_floats(floats: Weights, others: Weights, inputs: Inputs, share: jax.Array) -> jax.Array:
            return share * loss({**others, **floats}, inputs)

        def added(
            total: Weights, floats: Weights, others: Weights, inputs: Inputs, share: jax.Array
        ) -> tuple[jax.Array, Weights]:
            value, gradient = jax.value_and_grad(of_floats)(floats, others, inputs, share)
            return value, jax.tree.map(jnp.add, total, gradient)

        self._add_gradient = jax.jit(added, donate_argnums=0)  # the sum stays where it is: one gradient is held

    def loss(self, weights: Mapping[str, np.ndarray]) -> float:
        """The loss of these weights over the whole dump."""
        refuse_other_names(weights, self._shapes)
        placed = jax.device_put(dict(weights))
        # float() waits for the value: the arrays may be the caller's own memory, which is reused after this returns.
        return float(sum(float(self._value(placed, inputs, share)) for inputs, share in self._batches))

    def loss_and_gradient(self, weights: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """The same loss and its gradient with respect to every float weight."""
        refuse_other_names(weights, self._shapes)
        placed = jax.device_put(dict(weights))
        floats = {name: array for name, array in placed.items() if np.issubdtype(array.dtype, np.floating)}
        others = {name: array for name, array in placed.items() if name not in floats}
        value, total = 0.0, jax.tree.map(jnp.zeros_like, floats)
        for inputs, share in self._batches:
            part, total = self._add_gradient(total, floats, others, inputs, share)
            value += float(part)
        return value, {name: np.asarray(array) for name, array in total.items()}

    def by_episode(self, weights: Mapping[str, np.ndarray]) -> Sums:
        """Sums of the loss over the action values of each episode, and their counts: what an interval needs."""
        refuse_other_names(weights, self._shapes)
        placed = jax.device_put(dict(weights))

        def measure(batch: Batch) -> tuple[float, int]:
            inputs, count = self._policy.loss_inputs(batch, ROWS)
            return float(self._value(placed, inputs, np.float32(count))), count

        return summed_by_episode(self._dump, ROWS, self._shape, measure)
