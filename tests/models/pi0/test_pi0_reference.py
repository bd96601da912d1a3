"""The network computes what openpi computes, in float32 and from the same weights."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pi0_reference_arrays import REFERENCE, Case, furthest, listed_shapes

from xp.checkpoints.arrays import Leaf
from xp.checkpoints.orbax import OrbaxWriter
from xp.models.pi0.freezing import frozen_patterns
from xp.models.pi0.io.folder import new_tree, open_step
from xp.models.pi0.network.flow import Network, draws
from xp.models.pi0.network.sizes import EXPERTS, VISIONS, Sizes, sizes_from_shapes
from xp.models.tree import flatten, unflatten
from xp.training.partition import split

FULL = {
    "pi0_full": (50, 3_238_048_528),
    "pi05_full": (51, 3_353_433_872),
    "pi0_lora_full": (70, 3_288_036_112),
    "pi05_lora_full": (71, 3_403_421_456),
}


@pytest.fixture(scope="module", params=["pi05", "pi0_narrow"])
def case(request) -> Case:
    return Case(request.param)


def test_the_tree_of_weights_is_openpis(case):
    shapes = {path: leaf.shape for path, leaf in case.network.shapes().items()}
    assert shapes == {path: array.shape for path, array in case.flat.items()}
    assert case.sizes.name == case.name.removesuffix("_narrow")


def test_the_tokens_of_prefix_and_suffix(case):
    model, outputs = case.network.model(case.weights), case.outputs
    prefix = jax.jit(lambda weights, inputs: case.network.model(weights).prefix(inputs))(case.weights, case.inputs)
    assert furthest(prefix.tokens, outputs["prefix/tokens"]) < 1e-5
    np.testing.assert_array_equal(prefix.valid, outputs["prefix/mask"])
    np.testing.assert_array_equal(prefix.begins, outputs["prefix/ar"])
    suffix = model.suffix(jnp.asarray(case.inputs["state"]), jnp.asarray(outputs["x_t"]), jnp.asarray(case.time))
    assert furthest(suffix.block.tokens, outputs["suffix/tokens"]) < 1e-5
    np.testing.assert_array_equal(suffix.block.begins, outputs["suffix/ar"])
    if case.sizes.is_pi05:
        assert suffix.condition is not None
        assert furthest(suffix.condition, outputs["suffix/adarms_cond"]) < 1e-5


def test_velocity_loss_and_cache(case):
    network, outputs = case.network, case.outputs
    velocity = jax.jit(lambda weights, inputs, x, t: network.model(weights).velocity(inputs, x, t))
    assert furthest(velocity(case.weights, case.inputs, outputs["x_t"], case.time), outputs["v_t"]) < 2e-5
    errors = jax.jit(network.errors)(case.weights, case.inputs, case.noise, case.time)
    assert furthest(errors, outputs["loss_fixed_noise_time"]) < 1e-5
    cache, _ = jax.jit(lambda weights, inputs: network.model(weights).read_prefix(inputs))(case.weights, case.inputs)
    assert furthest(cache.values, outputs["kv_cache/v"]) < 2e-5
    assert furthest(cache.keys, outputs["kv_cache/k"]) < 1e-4  # of numbers up to 4, after a rotation


def test_the_draws_of_a_step(case):
    noise, time = draws(jax.random.key(42), case.inputs["action"].shape)
    np.testing.assert_array_equal(noise, case.outputs["rng42/noise"])
    np.testing.assert_array_equal(time, case.outputs["rng42/time"])


def test_sampled_actions_with_and_without_the_cache(case):
    sample = jax.jit(case.network.sample, static_argnums=3)
    for steps in (10, 3, 1):
        found = sample(case.weights, case.inputs, case.noise, steps)
        assert furthest(found, case.outputs[f"sample/steps{steps}"]) < 1e-4
    plain = jax.jit(case.network.sample_uncached, static_argnums=3)(case.weights, case.inputs, case.noise, 3)
    assert furthest(plain, case.outputs["sample/steps3"]) < 1e-4


@pytest.mark.slow
def test_the_gradient_of_every_weight(case):
    """Openpi's own `compute_loss(key(42))`: 1e-4 of each leaf's norm; leaves that nothing flows to, 1e-7."""
    network, key = case.network, jax.random.key(42)
    loss = jax.jit(jax.value_and_grad(lambda weights: network.loss(weights, case.inputs, key, True)[0]))
    value, tree = loss(case.weights)
    assert abs(value - case.outputs["grad_mean_loss"]) < 1e-5
    gradient = flatten(tree)
    paths = json.loads((REFERENCE / f"{case.name}.grad_keys.json").read_text())
    assert set(paths) == set(gradient)
    for path, norm in zip(paths, case.outputs["grad_norms"]):
        assert abs(np.linalg.norm(np.asarray(gradient[path]).ravel()) - norm) < 1e-4 * norm + 1e-7, path
    for key, wanted in case.outputs.items():
        if key.startswith("grad/"):
            path = key.removeprefix("grad/")
            distance = np.linalg.norm((np.asarray(gradient[path]) - wanted).ravel())
            assert distance < 1e-4 * np.linalg.norm(wanted.ravel()) + 1e-7, path


@pytest.mark.slow
def test_bfloat16_is_as_near_as_openpi_comes_to_itself(case):
    """Openpi on two versions of JAX differs by 0.004 to 0.012 in bfloat16."""
    network = Network(sizes=case.sizes, dtype="bfloat16")
    sample = jax.jit(network.sample, static_argnums=3)
    cast = unflatten({path: array.astype(jnp.bfloat16) for path, array in case.flat.items()})
    assert furthest(sample(cast, case.inputs, case.noise, 10), case.outputs["bf16/sample_steps10"]) < 0.02
    kept = sample(case.weights, case.inputs, case.noise, 10)
    assert furthest(kept, case.outputs["bf16train/sample_steps10"]) < 0.02


@pytest.mark.parametrize("name", FULL)
def test_the_tree_of_the_real_size_without_memory(name):
    listed = listed_shapes(f"{name}.param_tree.json")
    sizes = sizes_from_shapes(listed, name)
    low = "_lora" if "lora" in name else ""
    experts = {"language": EXPERTS[f"gemma_2b{low}"], "action": EXPERTS[f"gemma_300m{low}"]}
    assert sizes == Sizes(vision=VISIONS["so400m"], is_pi05=name.startswith("pi05"), **experts)
    network = Network(sizes=sizes)
    assert {path: leaf.shape for path, leaf in network.shapes().items()} == listed
    assert (len(listed), network.parameters) == FULL[name]


@pytest.fixture(scope="module")
def low_rank() -> Case:
    """pi0.5 with updates of ranks 4 and 8, alpha twice the rank."""
    case = Case("pi05_lora")
    twice = {name: replace(getattr(case.sizes, name), lora_scale=2.0) for name in ("language", "action")}
    case.sizes = replace(case.sizes, **twice)
    return case


def test_low_rank_updates_compute_what_openpis_do(low_rank):
    assert (low_rank.sizes.language.lora_rank, low_rank.sizes.action.lora_rank) == (4, 8)
    sample = jax.jit(low_rank.network.sample, static_argnums=3)
    found = sample(low_rank.weights, low_rank.inputs, low_rank.noise, 10)
    assert furthest(found, low_rank.outputs["sample/steps10"]) < 1e-4


def test_what_is_trained_beside_low_rank_updates_is_what_openpi_trains(low_rank):
    parts = split({path: array for path, array in low_rank.flat.items()}, model_frozen=frozen_patterns(low_rank.sizes))
    assert set(parts.trained) == {str(path) for path in low_rank.outputs["trainable_keys"]}
    assert set(parts.frozen) == {str(path) for path in low_rank.outputs["frozen_keys"]}


def test_a_folder_with_low_rank_updates_is_folded_into_what_it_computes(low_rank, tmp_path):
    """alpha = rank, as in every variant of openpi: the weights with their updates give what they give folded."""
    flat = {path: array.astype(np.float32) for path, array in low_rank.flat.items()}
    leaves = {path: Leaf(path, array.shape, array.dtype) for path, array in flat.items()}
    writer = OrbaxWriter(tmp_path / "params", leaves, new_tree(leaves))
    for path, array in flat.items():
        writer.write(path, 0, array.reshape(-1))
    writer.close()
    kept, folded = (open_step(tmp_path, fold=fold) for fold in (False, True))
    assert kept.shapes == {path: array.shape for path, array in flat.items()} and len(folded.shapes) == 51
    plain = Network(sizes=sizes_from_shapes(folded.shapes, "folded"))
    beside = Network(sizes=sizes_from_shapes(kept.shapes, "kept"))
    found = [
        jax.jit(network.sample, static_argnums=3)(
            unflatten({path: step.read(path) for path in step.leaves}), low_rank.inputs, low_rank.noise, 1
        )
        for network, step in ((plain, folded), (beside, kept))
    ]
    assert furthest(*found) < 1e-5
