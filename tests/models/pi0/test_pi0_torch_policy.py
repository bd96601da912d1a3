"""The policy of a pi0 in torch: it is the one in JAX, with other arithmetic; saved, loaded, converted, asked again."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from pi0_made_up import batch, observation, trainable

from xp.errors import UserError
from xp.models import recorded_answer
from xp.models.families import find_policy, load_policy
from xp.models.pi0.convert import JAX, LEROBOT, TORCH, convert, open_source
from xp.models.pi0_torch.converter import CONVERTER
from xp.models.policy import TorchPolicy
from xp.models.tree import flatten

KINDS = ("pi05", "pi0")


def moved(made, seed=0):
    """The policy of a trainable in JAX, its weights moved from the start, where pictures change little."""
    rng = np.random.default_rng(seed)
    return made.policy(
        jax.tree.map(lambda leaf: leaf + np.float32(0.05) * rng.standard_normal(leaf.shape, np.float32), made.weights)
    )


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """(the policy in JAX, the same one in torch, their folders)."""
    place = tmp_path_factory.mktemp(request.param)
    policy = moved(trainable(f"{request.param}_tiny"))
    policy.save(place / "jax")
    recorded_answer.write(place / "jax", recorded_answer.recorded(policy))
    convert(open_source(place / "jax", None, {}), TORCH, place / "torch")
    return policy, load_policy(place / "torch", device="cpu"), place


def draws(rows=3, horizon=6):
    rng = np.random.default_rng(4)
    return {
        "noise": rng.standard_normal((rows, horizon, 32)).astype(np.float32),
        "time": rng.uniform(0.01, 1, rows).astype(np.float32),
    }


def test_both_frameworks_answer_alike(pair):
    first, second, _ = pair
    assert isinstance(second, TorchPolicy) and second.spec == first.spec
    assert second.camera_slots == first.camera_slots
    noise = draws()["noise"]
    one, other = (p.predict(observation(), noise=noise, normalized=True) for p in (first, second))
    np.testing.assert_allclose(other, one, atol=1e-4)
    given = {**batch(), **draws()}
    assert second.loss(given)["loss"] == pytest.approx(first.loss(given)["loss"], rel=5e-5)
    padded = {**given, "action_is_pad": np.arange(6)[None].repeat(3, 0) > 3}
    assert second.loss(padded)["loss"] == pytest.approx(first.loss(padded)["loss"], rel=5e-5)


def test_draws_of_a_dump_are_the_same_in_both(pair):
    first, second, _ = pair
    rng = np.random.default_rng(1)
    fixed = {
        "noise": rng.standard_normal((3, 2, 1, 6, 4)).astype(np.float32),
        "time": rng.uniform(size=(3, 2, 1)).astype(np.float32),
    }
    given = {**batch(), **fixed}
    assert second.loss(given)["loss"] == pytest.approx(first.loss(given)["loss"], rel=5e-5)


def test_a_row_draws_by_its_own_number(pair):
    _, policy, _ = pair
    whole = policy.predict(observation(), seed=np.array([5, 6, 7]))
    last = {name: value[2:] for name, value in observation().items()}
    np.testing.assert_allclose(policy.predict(last, seed=np.array([7])), whole[2:], atol=1e-4)
    with pytest.raises(UserError, match="noise has shape"):
        policy.predict(observation(), noise=np.zeros((3, 6, 4)))


def test_a_saved_policy_is_the_same_policy(pair, tmp_path):
    _, policy, _ = pair
    policy.save(tmp_path / "again")
    assert find_policy(tmp_path / "again").family.name == "pi0_torch"
    again = load_policy(tmp_path / "again", device="cpu")
    assert again.interface.notes == policy.interface.notes
    for name, array in policy.weights().items():
        np.testing.assert_array_equal(again.weights()[name], array)
    np.testing.assert_array_equal(again.predict(observation(), seed=1), policy.predict(observation(), seed=1))
    other = policy.with_weights({name: array * 1.1 for name, array in policy.weights().items()})
    assert np.abs(other.predict(observation(), seed=1) - policy.predict(observation(), seed=1)).max() > 1e-4


def test_half_precision_is_asked_for_in_loading(pair):
    _, policy, place = pair
    half = load_policy(place / "torch", device="cpu", dtype="bfloat16")
    kinds = {tensor.dtype for tensor in half.module.state_dict().values()}
    assert kinds == {torch.bfloat16, torch.float32}
    noise = draws()["noise"]
    found, wanted = (p.predict(observation(), noise=noise, normalized=True) for p in (half, policy))
    assert 0 < np.abs(found - wanted).max() < 0.2
    with pytest.raises(UserError, match="dtype=float16: allowed are float32, bfloat16"):
        load_policy(place / "torch", dtype="float16")


def test_a_recorded_answer_survives_conversion_and_tells_of_a_change(pair, tmp_path):
    _, policy, place = pair
    answer = recorded_answer.read(place / "jax")
    assert answer is not None and answer.framework == "jax"
    assert recorded_answer.compare(policy, answer, "the policy") < 2e-3
    robot = convert(open_source(place / "torch", None, {}), LEROBOT, tmp_path / "lerobot")
    assert find_policy(robot).family.name == "lerobot"
    own = CONVERTER.load(robot, None, {})
    assert own is not None and recorded_answer.compare(own, answer, "LeRobot's") < 2e-3

    for file in (place / "torch").rglob("norm_stats.json"):
        content = json.loads(file.read_text())
        changed = Path(file)
    content["norm_stats"]["actions"]["mean"][1] += 0.3
    if content["norm_stats"]["actions"]["q01"]:
        content["norm_stats"]["actions"]["q01"][1] += 0.3
    before = changed.read_text()
    try:
        changed.write_text(json.dumps(content))
        with pytest.raises(UserError, match="no longer answers as it did when it was saved"):
            recorded_answer.compare(load_policy(place / "torch", device="cpu"), answer, "the policy")
    finally:
        changed.write_text(before)
    weights = {**policy.weights()}
    weights["action_out_proj.bias"] = weights["action_out_proj.bias"] + 0.05
    with pytest.raises(UserError, match="no longer answers"):
        recorded_answer.compare(policy.with_weights(weights), answer, "the policy")


def test_an_answer_of_another_policy_or_a_damaged_one_is_refused(pair, tmp_path):
    first, policy, _ = pair
    answer = recorded_answer.recorded(policy)
    with pytest.raises(UserError, match="is another policy's"):
        recorded_answer.compare(first, answer._replace(state=answer.state[:, :2]), "it")
    (tmp_path / recorded_answer.FILE).write_bytes(b"\0" * 40)
    with pytest.raises(UserError):
        recorded_answer.read(tmp_path)
    assert recorded_answer.read(tmp_path / "nowhere") is None


def test_training_in_torch_begins_with_the_weights_of_jax(tmp_path):
    first, second = trainable("pi05_tiny", seed=3), trainable("pi05_torch_tiny", seed=3)
    one = first.policy(first.weights)
    second.policy(None).save(tmp_path / "torch")
    convert(open_source(tmp_path / "torch", None, {}), JAX, tmp_path / "jax")
    again = load_policy(tmp_path / "jax")
    for path, array in flatten(first.weights).items():
        np.testing.assert_array_equal(again.weights()[path], array)
    assert again.spec == one.spec


def test_pretrained_weights_are_taken_whole_and_the_other_model_refused(pair, tmp_path):
    policy, second, place = pair
    name = second.sizes.name
    started = trainable(f"{name}_torch_tiny", pretrained=place / "torch", horizon=4)
    state = started.module.state_dict()
    for path, array in second.weights().items():
        np.testing.assert_array_equal(state[path].numpy(), array)
    assert started.spec.horizon == 4 and policy.spec.horizon == 6
    other = "pi0" if name == "pi05" else "pi05"
    with pytest.raises(UserError, match=f"its weights are of {name}, and the model asked for is {other}"):
        trainable(f"{other}_torch_tiny", pretrained=place / "torch")
    with pytest.raises(UserError, match="a policy of the family pi0, while model.family=pi0_torch"):
        trainable(f"{name}_torch_tiny", pretrained=place / "jax")
