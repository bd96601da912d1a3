"""The network of `toy_jax`: noise is carried to a chunk in a few steps (flow matching, Lipman et al. 2023)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from xp.models.network_family import JaxNetwork


class Velocity(nn.Module):
    """Where a chunk [B, H, A] on its way moves at a time [B, 1] from 0 (noise) to 1, given what is observed."""

    width: int
    cameras: tuple

    @nn.compact
    def __call__(self, inputs, chunk, time):
        seen = [inputs["observation.state"].reshape(len(chunk), -1), chunk.reshape(len(chunk), -1), time]
        for name in self.cameras:
            pictures = inputs[f"observation.images.{name}"]
            maps = nn.relu(nn.Conv(16, (5, 5), strides=2)(pictures.reshape(-1, *pictures.shape[2:])))
            seen.append(_places(nn.Conv(16, (3, 3))(maps)).reshape(len(chunk), -1))
        x = jnp.concatenate(seen, axis=1)
        for _ in range(2):
            x = nn.gelu(nn.Dense(self.width)(x))
        return nn.Dense(chunk[0].size)(x).reshape(chunk.shape)


def make_network(spec, *, width, draws):
    """The functions of a network; `draws` are the steps from noise to a chunk."""
    module, shape = Velocity(width, tuple(spec.cameras)), (spec.horizon, spec.action_dim)

    def init(key, inputs):
        return module.init(key, inputs, jnp.zeros((1, *shape)), jnp.zeros((1, 1)))["params"]

    def chunk(weights, inputs, key):
        rows = len(inputs["observation.state"])
        x = jax.random.normal(key, (rows, *shape))
        for step in range(draws):
            x = x + module.apply({"params": weights}, inputs, x, jnp.full((rows, 1), step / draws)) / draws
        return x

    def loss(weights, inputs, key, train):
        action, (of_noise, of_time) = inputs["action"], jax.random.split(key)
        noise, time = jax.random.normal(of_noise, action.shape), jax.random.uniform(of_time, (len(action), 1))
        mixed = time[..., None] * action + (1 - time[..., None]) * noise
        error = (module.apply({"params": weights}, inputs, mixed, time) - (action - noise)) ** 2
        valid = ~inputs["action_is_pad"][..., None] * jnp.ones_like(error)
        value = (error * valid).sum() / jnp.maximum(valid.sum(), 1)
        return value, {"flow": value}

    return JaxNetwork(init, chunk, loss)


def _places(maps):
    """Expected places of [N, h, w, C] feature maps as [N, 2 C], from -1 to 1 (Levine et al. 2016)."""
    weights = jax.nn.softmax(maps.reshape(len(maps), -1, maps.shape[-1]), axis=1).reshape(maps.shape)
    down, across = (jnp.linspace(-1, 1, size) for size in maps.shape[1:3])
    return jnp.concatenate([(weights.sum(2) * down[:, None]).sum(1), (weights.sum(1) * across[:, None]).sum(1)], 1)
