"""The torch side computes what openpi's port computes, and what its JAX code does, on their own arrays."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from pi0_reference_arrays import REFERENCE, Case, furthest, needs_reference

from xp.models.families import find_policy, load_policy
from xp.models.pi0.freezing import frozen_patterns
from xp.models.pi0.io.key_map import UNUSED, joined, parts
from xp.models.pi0_torch.build import tensors_of
from xp.models.pi0_torch.network import errors, loss, make_model, sample, seen, take

NAMES = ("pi05", "pi0_narrow")


@cache
def case(name):
    """(weights and arrays of JAX, outputs of openpi's torch code, the model, its inputs)."""
    found = Case(name)
    with np.load(REFERENCE / f"{name}.torch_outputs.npz") as outputs:
        torch_outputs = dict(outputs)
    return found, torch_outputs, *made(found, found.sizes)


def made(found, sizes):
    """(the model with the weights of a case, its inputs)."""
    model = make_model(sizes, horizon=10, sample_steps=10)
    tensors = {UNUSED: torch.zeros(sizes.vocabulary, sizes.action.width)}
    for part in parts({leaf: array.shape for leaf, array in found.flat.items()}):
        layer = found.flat[part.leaf] if part.layer is None else found.flat[part.leaf][part.layer]
        tensors |= {n: torch.from_numpy(v.copy()) for n, v in zip(part.tensors, part.way.split(layer))}
    inputs = {key: torch.from_numpy(np.array(value)) for key, value in found.inputs.items()}
    return take(model, tensors).eval(), inputs


def drawn(found):
    return torch.from_numpy(found.noise), torch.from_numpy(found.time)


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_those_of_openpis_port(name):
    found, outputs, model, inputs = case(name)
    noise, time = drawn(found)
    with torch.no_grad():
        tokens, there, _ = model.embed_prefix(*seen(inputs))
        at = time[:, None, None]
        noisy = at * noise + (1 - at) * inputs["action"]
        state = () if found.sizes.is_pi05 else (inputs["state"],)
        suffix, _, _, condition = model.embed_suffix(*state, noisy, time)
    np.testing.assert_array_equal(there, outputs["prefix/mask"])
    for wanted in (outputs, found.outputs):
        assert furthest(tokens, wanted["prefix/tokens"]) < 1e-5
    assert furthest(suffix, outputs["suffix/tokens"]) < 1e-5
    assert furthest(suffix, found.outputs["suffix/tokens"]) < 5e-5
    if found.sizes.is_pi05:
        assert furthest(condition, outputs["suffix/adarms_cond"]) < 1e-5
        assert furthest(condition, found.outputs["suffix/adarms_cond"]) < 5e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_that_of_openpis_port_and_of_jax(name):
    found, outputs, model, inputs = case(name)
    noise, time = drawn(found)
    with torch.no_grad():
        each = errors(model, inputs, noise, time)
        whole = loss(model, {**inputs, "noise": noise, "time": time}, None)
    assert furthest(each, outputs["loss_elem"]) < 1e-5
    assert furthest(each.mean(-1), found.outputs["loss_fixed_noise_time"]) < 5e-5
    assert float(whole) == pytest.approx(float(found.outputs["loss_fixed_noise_time"].mean()), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [10, 3, 1])
def test_sampled_actions_are_those_of_openpis_port_and_of_jax(name, steps):
    found, outputs, model, inputs = case(name)
    with torch.no_grad():
        actions = sample(model, inputs, drawn(found)[0], steps)
    assert furthest(actions, outputs[f"sample/steps{steps}"]) < 1e-4
    assert furthest(actions, found.outputs[f"sample/steps{steps}"]) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_every_weight_is_that_of_jax(name):
    found, _, model, inputs = case(name)
    noise, time = (torch.from_numpy(np.array(found.outputs[f"rng42/{part}"])) for part in ("noise", "time"))
    model.zero_grad(set_to_none=True)
    value = loss(model, {**inputs, "noise": noise, "time": time}, None)
    value.backward()
    assert float(value) == pytest.approx(float(found.outputs["grad_mean_loss"]), rel=1e-4)
    flat = {n: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy() for n, p in model.named_parameters()}
    gradient = {leaf: np.zeros(array.shape, np.float32) for leaf, array in found.flat.items()}
    for part in parts({leaf: array.shape for leaf, array in found.flat.items()}):
        place = gradient[part.leaf] if part.layer is None else gradient[part.leaf][part.layer]
        place[...] = joined(part, flat, place.shape)
    paths = json.loads((REFERENCE / f"{name}.grad_keys.json").read_text())
    norms = dict(zip(paths, found.outputs["grad_norms"], strict=True))
    for path, norm in norms.items():
        assert abs(np.linalg.norm(gradient[path].ravel()) - norm) < 1e-4 * norm + 1e-7, path
        if f"grad/{path}" in found.outputs:
            distance = np.linalg.norm((gradient[path] - found.outputs[f"grad/{path}"]).ravel())
            assert distance < 1e-4 * norm + 1e-7, path


def test_openpis_folder_in_torch_loads_and_answers():
    needs_reference()
    found, outputs, _, inputs = case("pi05")
    folder = REFERENCE / "torch_pi05"
    assert find_policy(folder).family.name == "pi0_torch"
    policy = load_policy(folder, device="cpu", vision_heads="2")
    assert policy.spec.horizon == 10 and policy.spec.action_dim == 8
    assert policy.interface.notes.asset_id == "tiny/robot"
    with torch.no_grad():
        actions = sample(policy.module.eval(), inputs, drawn(found)[0], 10)
    assert furthest(actions, outputs["sample/steps10"]) < 1e-4


def test_low_rank_updates_compute_what_openpis_do_in_jax():
    """Updates of ranks 4 and 8, alpha twice the rank; what is trained beside them is what openpi trains."""
    found = Case("pi05_lora")
    twice = {name: replace(getattr(found.sizes, name), lora_scale=2.0) for name in ("language", "action")}
    sizes = replace(found.sizes, **twice)
    model, inputs = made(found, sizes)
    with torch.no_grad():
        actions = sample(model, inputs, drawn(found)[0], 10)
    assert furthest(actions, found.outputs["sample/steps10"]) < 1e-4
    frozen = {str(path) for path in found.outputs["frozen_keys"]}
    listed = parts({leaf: array.shape for leaf, array in found.flat.items()})
    assert set(tensors_of(sizes, frozen_patterns(sizes))) == {
        name for part in listed if part.leaf in frozen for name in part.tensors
    }
