"""Flow matching on action chunks: the objective and the sampling of pi0, pure functions of weights.

Lipman et al. 2023 ("Flow Matching for Generative Modeling") on straight paths: x_t = t noise + (1 - t) actions, whose
velocity is noise - actions; time 1 is noise. Times of training are Beta(1.5, 1), near the noise (Black et al. 2024,
appendix B).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from xp.models.pi0.inputs.mixed import DIM_IS_PAD
from xp.models.pi0.network.gemma import Cache
from xp.models.pi0.network.guidance import guided_velocity
from xp.models.pi0.network.model import ACTION, IS_PAD, NOISE, STATE, TIME, Inputs, Pi0
from xp.models.pi0.network.sizes import Sizes
from xp.models.pi0.real_time import DELAY, PLAN, PLAN_GIVEN, PLAN_MASK, PLAN_WEIGHT
from xp.models.tree import Tree, flatten

type Weights = Tree[Array | np.ndarray]
"""The nested parameters, with the names of openpi."""
type RandomKey = Key[Array, ""]

EARLIEST = 0.001
"""The earliest time that is trained on."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network of some sizes, as functions on weights; nothing of it has memory of its own."""

    sizes: Sizes
    dtype: str | None = None
    """What the transformers compute in; None: the type of their weights."""
    remat: bool = False
    """Compute layers again in the backward pass: far less memory, about a third more time."""
    max_delay: int = 0
    """Up to how many actions are given clean before the rest is learned and sampled; see `Network.loss`."""
    counted_dims: int | None = None
    """How many action dimensions the loss is a mean over, from the first; None: all, the filled ones too, as openpi."""

    @cached_property
    def graph(self) -> nnx.GraphDef:
        """The modules without weights."""
        return nnx.split(self._abstract())[0]

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape of every weight by its path, without memory."""
        return flatten(nnx.to_pure_dict(nnx.split(self._abstract())[1]))

    def _abstract(self) -> Pi0:
        return Pi0(self.sizes, dtype=self.dtype, remat=self.remat)

    def model(self, weights: Weights) -> Pi0:
        """The modules with weights."""
        return nnx.merge(self.graph, weights)

    def errors(
        self,
        weights: Weights,
        inputs: Inputs,
        noise: Float[Array, "batch horizon dim"],
        time: Float[Array, " batch *each"],
    ) -> Float[Array, "batch horizon"]:
        """Squared error of the velocity, the mean over action dimensions; each action may have its own time."""
        actions, at = jnp.asarray(inputs[ACTION]), time[..., None] if time.ndim == 2 else time[:, None, None]
        found = self.model(weights).velocity(inputs, at * noise + (1 - at) * actions, time)
        return self._over_dims(jnp.square(found - (noise - actions)), inputs)

    def _over_dims(self, values: Float[Array, "batch horizon dim"], inputs: Inputs) -> Float[Array, "batch horizon"]:
        """The mean over the action dimensions that count: those of each row's dataset where `inputs` say them."""
        if DIM_IS_PAD not in inputs:
            return values[..., : self.counted_dims].mean(-1)
        counts = ~jnp.asarray(inputs[DIM_IS_PAD])[:, None]
        return jnp.where(counts, values, 0.0).sum(-1) / counts.sum(-1)

    def errors_of_draws(
        self,
        weights: Weights,
        inputs: Inputs,
        noise: Float[Array, "batch draw horizon dim"],
        time: Float[Array, "batch draw"],
    ) -> Float[Array, "batch horizon"]:
        """The mean of `errors` over several draws for each window, whose prefix is read once."""
        model, state, actions = self.model(weights), jnp.asarray(inputs[STATE]), jnp.asarray(inputs[ACTION])
        cache, valid = model.read_prefix(inputs)

        def one(noise: Array, time: Array) -> Array:
            at = time[:, None, None]
            found = model.velocity_after(cache, valid, state, at * noise + (1 - at) * actions, time)
            return self._over_dims(jnp.square(found - (noise - actions)), inputs)

        return jax.vmap(one, in_axes=1)(noise, time).mean(0)

    def loss(
        self, weights: Weights, inputs: Inputs, key: RandomKey, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The mean error over steps that are no padding; noise and time are drawn unless `inputs` has them.

        With `max_delay` the first d actions of a window are given clean, at time 0, and only the rest is learned
        (Black, Ren, Equi & Levine 2025, "Training-Time Action Conditioning for Efficient Real-Time Chunking"); d is
        drawn from 0 .. `max_delay` unless `inputs` has it. Several draws a window (of a dump) are without.

        `train` changes nothing: there is no dropout.
        """
        actions = jnp.asarray(inputs[ACTION])
        real = ~jnp.asarray(inputs[IS_PAD]) if IS_PAD in inputs else jnp.ones(actions.shape[:2], bool)
        noise, time = draws(key, actions.shape)
        if NOISE in inputs:
            noise, time = jnp.asarray(inputs[NOISE]), jnp.asarray(inputs[TIME])
        if self.max_delay and noise.ndim == 3:
            delay = jnp.asarray(inputs[DELAY]) if DELAY in inputs else delays(key, len(actions), self.max_delay)
            is_given = jnp.arange(actions.shape[1]) < delay[:, None]
            real, time = real & ~is_given, jnp.where(is_given, 0.0, time[:, None])
        find = self.errors if noise.ndim == 3 else self.errors_of_draws
        errors = find(weights, inputs, noise, time).astype(jnp.float32)
        return jnp.where(real, errors, 0.0).sum() / jnp.maximum(real.sum(), 1), {}

    def sample(
        self, weights: Weights, inputs: Inputs, noise: Float[Array, "batch horizon dim"], steps: int
    ) -> Float[Array, "batch horizon dim"]:
        """Actions from noise by `steps` steps of Euler's method; the prefix is read once.

        Where `inputs` have a plan (`xp.models.pi0.real_time`), the actions are led to fall in with it, or begin with
        what is given of it (`PLAN_GIVEN`).
        """
        model = self.model(weights)
        cache, valid = model.read_prefix(inputs)
        state, step = jnp.asarray(inputs[STATE]), -1.0 / steps
        if PLAN_GIVEN in inputs:
            return _behind(model, cache, valid, inputs, noise, steps)
        bound = [jnp.asarray(inputs[name]) for name in (PLAN, PLAN_MASK, PLAN_WEIGHT) if name in inputs]

        def move(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            noisy, time = carry
            times = jnp.broadcast_to(time, noisy.shape[:1])

            def velocity(noisy: Array) -> Array:
                return model.velocity_after(cache, valid, state, noisy, times)

            found = guided_velocity(velocity, noisy, time, *bound) if bound else velocity(noisy)
            return noisy + step * found, time + step

        return jax.lax.fori_loop(0, steps, move, (noise, jnp.float32(1.0)))[0]

    def sample_uncached(
        self, weights: Weights, inputs: Inputs, noise: Float[Array, "batch horizon dim"], steps: int
    ) -> Float[Array, "batch horizon dim"]:
        """The same with the prefix read again in every step: what the cache saves is measured against it."""
        model, step = self.model(weights), -1.0 / steps

        def move(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            noisy, time = carry
            found = model.velocity(inputs, noisy, jnp.broadcast_to(time, noisy.shape[:1]))
            return noisy + step * found, time + step

        return jax.lax.fori_loop(0, steps, move, (noise, jnp.float32(1.0)))[0]

    @cached_property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(math.prod(leaf.shape) for leaf in self.shapes().values())


def _behind(
    model: Pi0,
    cache: Cache,
    valid: Bool[Array, "batch token"],
    inputs: Inputs,
    noise: Float[Array, "batch horizon dim"],
    steps: int,
) -> Float[Array, "batch horizon dim"]:
    """Actions behind those that are given clean, at time 0 in every step, as they were in training."""
    plan, is_given = jnp.asarray(inputs[PLAN]), jnp.asarray(inputs[PLAN_GIVEN])
    state, step = jnp.asarray(inputs[STATE]), -1.0 / steps

    def with_given(actions: Array) -> Array:
        return jnp.where(is_given[..., None], plan, actions)

    def move(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        noisy, time = carry
        found = model.velocity_after(cache, valid, state, with_given(noisy), jnp.where(is_given, 0.0, time))
        return noisy + step * found, time + step

    return with_given(jax.lax.fori_loop(0, steps, move, (noise, jnp.float32(1.0)))[0])


def delays(key: RandomKey, rows: int, most: int) -> Int[Array, " rows"]:
    """How many actions of each window are given: 0 .. `most`, all as likely; from the key of a step, beside `draws`."""
    return jax.random.randint(jax.random.fold_in(key, 3), (rows,), 0, most + 1)


def draws(key: RandomKey, shape: tuple[int, ...]) -> tuple[Float[Array, "batch horizon dim"], Float[Array, " batch"]]:
    """Noise and time for a batch of actions of a shape [B, H, A], as openpi draws them from the key of a step.

    The first of the three keys is that of openpi's augmentation.
    """
    _, noise_key, time_key = jax.random.split(key, 3)
    time = jax.random.beta(time_key, 1.5, 1.0, shape[:1]) * (1 - EARLIEST) + EARLIEST
    return jax.random.normal(noise_key, shape), time
