"""A key of JAX's generators for each row of a batch."""

import jax
import numpy as np
from jaxtyping import Array, Key, Shaped

from xp.models.policy import Seed


def row_keys(seed: Seed, first: int, rows: int) -> Key[Array, " rows"]:
    """The keys of the rows `first` to `first + rows` - 1.

    One number for all: each row draws by its place. A number a row [B]: each draws what it would alone by its own
    number, wherever it stands. Rows beyond the last (padding) draw as the last does.
    """
    if not isinstance(seed, np.ndarray):
        key = jax.random.key(seed)
        return jax.vmap(lambda row: jax.random.fold_in(key, row))(np.arange(first, first + rows))
    places = np.minimum(np.arange(first, first + rows), len(seed) - 1)
    return _alone(np.asarray(seed, np.uint32)[places])


@jax.jit
def _alone(numbers: Shaped[Array, " rows"] | Shaped[np.ndarray, " rows"]) -> Key[Array, " rows"]:
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(number), 0))(numbers)
