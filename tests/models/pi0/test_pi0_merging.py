"""The six methods that average by loss give JAX and torch the same mixing weights, on the same validation set."""

import jax
import numpy as np
import pytest
from pi0_made_up import DATA, batch, trainable

from xp import merge
from xp.data.dumps import Dump, draws
from xp.models.families import load_policy
from xp.models.pi0.convert import TORCH, convert, open_source
from xp.training.frameworks import policy_loss

METHODS = {
    "average": 0.0, "manual": 0.0, "greedy": 0.0, "inverse_loss": 1e-4, "gradient_descent": 1e-3,
    "adaptive_gradient_descent": 1e-3,
}  # fmt: skip
"""{method: the largest difference of a mixing weight}."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Three checkpoints in JAX, the same in torch, and a validation set with fixed draws."""
    place, made = tmp_path_factory.mktemp("merging"), trainable("pi05_tiny")
    folders = []
    for number in range(3):
        rng = np.random.default_rng(number)
        moved = jax.tree.map(
            lambda leaf: leaf + np.float32(0.02 + 0.01 * number) * rng.standard_normal(leaf.shape, np.float32),  # noqa: B023
            made.weights,
        )
        made.policy(moved).save(place / f"jax{number}")
        convert(open_source(place / f"jax{number}", None, {}), TORCH, place / f"torch{number}")
        folders.append(number)
    rows = 6
    arrays = {name: value for name, value in batch(rows).items() if name != "task"}
    arrays |= {"task_index": np.zeros(rows, np.int64), **draws(0, rows, 2, 1, 6, DATA.action_dim)}
    return place, arrays


def weights_of(place, kind, method, arrays, tmp_path):
    paths = [place / f"{kind}{number}" for number in range(3)]
    options = {"weights": [0.5, 0.3, 0.2]} if method == "manual" else {}
    if "gradient" in method:
        options = {"iterations": 4}

    dump = Dump(tmp_path / "val.npz", arrays, ("pick up the cube",), {"seed": 3})
    merged = merge(
        paths,
        method,
        output=tmp_path / f"{kind}_{method}",
        objective=lambda: policy_loss(load_policy(paths[0], device="cpu"), dump),
        **options,
    )
    return np.concatenate([np.ravel(each) for each in merged.record["weights"].values()])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_jax_and_torch_choose_the_same_weights(checkpoints, method, tmp_path):
    place, arrays = checkpoints
    one = weights_of(place, "jax", method, arrays, tmp_path)
    other = weights_of(place, "torch", method, arrays, tmp_path)
    assert one.shape == other.shape == (3,) and one.sum() == pytest.approx(1)
    assert np.abs(one - other).max() <= METHODS[method]
