"""One update of the weights in JAX, as one compiled function that reuses the memory of its state.

AdamW with decoupled weight decay (Loshchilov & Hutter 2019) from optax, clipping by global norm (Pascanu et al. 2013),
gradient accumulation, an exponential moving average of the weights, and mixed precision with float32 master weights.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xp.checkpoints.arrays import Array
from xp.models.tree import Tree, unflatten
from xp.training.jax.sharding import Inputs, OneDevice, Placement, Weights, WeightTree
from xp.training.options import TrainerOptions
from xp.training.partition import HasShape, Partition, matching
from xp.training.session import Outcome

type Parts = Mapping[str, jax.Array]
"""Scalars that a loss is made of, by name."""
type Loss = Callable[[WeightTree, Inputs, jax.Array, bool], tuple[jax.Array, Parts]]
"""`loss(weights, inputs, key, train)`: the scalar objective and its parts, see `JaxTrainable`."""
type Gradient = Callable[[Weights, Weights, Inputs, jax.Array], tuple[tuple[jax.Array, Parts], Weights]]
"""`gradient(trained, frozen, inputs, key)`: objective, parts, and the gradient of the trained weights."""
type Step = Callable[
    [State, Mapping[str, Array], Inputs, np.ndarray, np.uint32, np.float32, np.bool_], tuple[State, Outcome]
]
"""`step(state, frozen, inputs, seed, index, rate, fresh)`, see `make_step`."""

KERNELS = ("*kernel*",)
"""The weights that decay where `trainer.weight_decay_params` is null: biases and norms are left alone."""


class State(NamedTuple):
    """Everything that an update changes; all of it goes into a checkpoint.

    `ema` is {} when no average is kept. `loss_sum` and `loss_count` run since the last row of the training log.
    """

    weights: Weights
    optimiser: optax.OptState
    ema: Weights
    loss_sum: jax.Array
    loss_count: jax.Array


def make_optimiser[Weight: HasShape](
    options: TrainerOptions,
    partition: Partition[Weight],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Clip by global norm, Adam, decoupled decay on `trainer.weight_decay_params` weights (by default kernels only).

    The learning rate is not part of it: the step multiplies by the rate it is given. Frozen weights have no state here.
    `betas` and `eps` are Adam's, as the model's own training has them.

    Raises:
        UserError: a decay pattern that matches no weight.
    """
    chain = [optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=eps)]
    if options.clip_norm is not None:
        chain.insert(0, optax.clip_by_global_norm(options.clip_norm))
    if options.weight_decay > 0:
        everything = sorted([*partition.trained, *partition.frozen])
        decayed = matching(
            everything,
            KERNELS if options.weight_decay_params is None else options.weight_decay_params,
            "trainer.weight_decay_params",
        )
        mask = {path: path in decayed for path in partition.trained}
        chain.append(optax.add_decayed_weights(options.weight_decay, mask=mask))
    return optax.chain(*chain)


def initial_state[Weight: Array](
    partition: Partition[Weight], optimiser: optax.GradientTransformation, options: TrainerOptions
) -> State:
    """The state before the first update, in fresh device buffers (the caller's arrays are never donated)."""
    weights = {path: jnp.array(array, dtype=jnp.float32, copy=True) for path, array in partition.trained.items()}
    ema = (
        {path: jnp.array(array, copy=True) for path, array in weights.items()} if options.ema_decay is not None else {}
    )
    return State(weights, optimiser.init(weights), ema, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def make_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    options: TrainerOptions,
    placement: Placement = OneDevice(),  # noqa: B008 - frozen and empty
) -> Step:
    """Compile `step(state, frozen, inputs, seed, index, rate, fresh) -> (state, outcome)`; `state` is donated.

    `seed` comes from `seed_words`, `index` (uint32) is the number of finished updates, `rate` the learning rate,
    `fresh` whether the running loss of the log starts anew. They are arguments, so that runs of a sweep over seeds or
    rates share one compiled program. Randomness is `fold_in(key(seed), index)`: a function of seed and step alone. The
    state keeps the layout that `placement` gave it.
    """
    gradient = jax.value_and_grad(_objective(loss, options.precision), has_aux=True)
    if options.accumulate > 1:
        gradient = _accumulated(gradient, options.accumulate)

    @partial(jax.jit, donate_argnums=0)
    def step(
        state: State,
        frozen: Weights,
        inputs: Inputs,
        seed: jax.Array,
        index: jax.Array,
        rate: jax.Array,
        fresh: jax.Array,
    ) -> tuple[State, Outcome]:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed), index)
        (value, parts), gradients = gradient(state.weights, frozen, inputs, key)
        norm = optax.global_norm(gradients)
        updates, memory = optimiser.update(gradients, state.optimiser, state.weights)
        weights = jax.tree.map(lambda w, u: w - rate * u, state.weights, updates)
        state = State(
            weights,
            memory,
            _averaged(state.ema, weights, index, options.ema_decay, options.ema_warmup),
            jnp.where(fresh, 0.0, state.loss_sum) + value,
            jnp.where(fresh, 0, state.loss_count) + 1,
        )
        return placement.constrain(state), Outcome(value, norm, parts)

    return step


def seed_words(seed: int) -> np.ndarray:
    """A seed as the step takes it: the words of `jax.random.key(seed)`."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def deployed(state: State, frozen: Mapping[str, Array]) -> Tree[Array]:
    """The nested weights that would be deployed: the moving average where one is kept, else the raw weights."""
    return unflatten({**frozen, **(state.ema or state.weights)})


def named_arrays(tree: State) -> dict[str, jax.Array]:
    """Leaves of a state by '/'-joined name, e.g. 'optimiser/1/mu/head/kernel'."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves of the state share a name"
    return named


def state_from_arrays(template: State, arrays: Mapping[str, np.ndarray]) -> State:
    """`template` with its leaves replaced by the arrays of the same names, on the default device."""
    values = [jnp.array(arrays[name], copy=True) for name in named_arrays(template)]
    return jax.tree.unflatten(jax.tree.structure(template), values)


def _objective(loss: Loss, precision: str) -> Callable[[Weights, Weights, Inputs, jax.Array], tuple[jax.Array, Parts]]:
    """The loss as a function of the trained weights alone: no gradient is computed for frozen ones.

    With bfloat16 the weights are cast at the start of every evaluation; master weights, gradients and optimiser state
    stay float32 (Micikevicius et al. 2018). A model computes in the type of its weights.
    """

    def cast(array: jax.Array) -> jax.Array:
        return array.astype(jnp.bfloat16) if array.dtype == jnp.float32 else array

    def objective(trained: Weights, frozen: Weights, inputs: Inputs, key: jax.Array) -> tuple[jax.Array, Parts]:
        flat = {**frozen, **trained}
        if precision == "bfloat16":
            flat = {path: cast(array) for path, array in flat.items()}
        value, parts = loss(unflatten(flat), inputs, key, True)
        return jnp.asarray(value, jnp.float32), {name: jnp.asarray(part, jnp.float32) for name, part in parts.items()}

    return objective


def _accumulated(gradient: Gradient, parts: int) -> Gradient:
    """The mean of value and gradient over `parts` equal slices of the batch, one slice in memory at a time.

    Slice i takes rows i, i + parts, ...: where several devices share a batch, each so keeps its own rows. Equal to the
    whole batch's when the loss is a mean over samples. Where padding leaves slices with different numbers of valid
    steps, each slice counts the same.
    """

    def whole(
        weights: Weights, frozen: Weights, inputs: Inputs, key: jax.Array
    ) -> tuple[tuple[jax.Array, Parts], Weights]:
        sliced = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), inputs)
        keys = jax.random.split(key, parts)
        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(gradient, weights, frozen, jax.tree.map(lambda x: x[0], sliced), keys[0]),
        )

        def add[Sum](total: Sum, piece: tuple[Inputs, jax.Array]) -> tuple[Sum, None]:
            found = gradient(weights, frozen, *piece)
            return jax.tree.map(lambda a, b: a + b / parts, total, found), None

        return jax.lax.scan(add, zero, (sliced, keys))[0]

    return whole


def _averaged(ema: Weights, weights: Weights, index: jax.Array, decay: float | None, warmup: bool) -> Weights:
    """EMA update, with warm-up by default: decay_t = min(decay, (1 + t) / (10 + t)) after t updates.

    TensorFlow's `ExponentialMovingAverage(num_updates)` rule: early averages follow the weights instead of the start.
    The counter is the step itself, so a resumed run continues it.
    """
    if decay is None:
        return {}
    t = index.astype(jnp.float32) + 1.0
    d = jnp.minimum(decay, (1.0 + t) / (10.0 + t)) if warmup else jnp.float32(decay)
    return {path: d * old + (1.0 - d) * weights[path] for path, old in ema.items()}
