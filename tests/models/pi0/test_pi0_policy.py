"""The policy of a pi0: what it predicts, what it learns, and what it refuses."""

import jax
import numpy as np
import pytest
from pi0_made_up import DATA, batch, config, entry, observation, trainable

from xp.errors import UserError
from xp.models import families
from xp.models.pi0.cameras import resolve_cameras
from xp.models.pi0.options import Pi0Options
from xp.models.policy import DataTransforms, JaxPolicy
from xp.models.tree import flatten


@pytest.fixture(scope="module", params=["pi05_tiny", "pi0_tiny"])
def made(request):
    return trainable(request.param)


@pytest.fixture(scope="module")
def policy(made):
    """Its weights moved from the start, where the gates of pi0.5 are shut and pictures change nothing."""
    rng = np.random.default_rng(0)
    return made.policy(
        jax.tree.map(lambda leaf: leaf + np.float32(0.05) * rng.standard_normal(leaf.shape, np.float32), made.weights)
    )


def test_it_is_a_policy_of_its_spec(made, policy):
    assert isinstance(policy, JaxPolicy)
    assert policy.camera_slots == {"base_0_rgb": "top", "left_wrist_0_rgb": "wrist"}
    assert policy.spec.window == (0, 6) and policy.spec.cameras == dict(DATA.cameras)
    assert policy.predict(observation()).shape == (3, 6, 4)


def test_a_row_is_predicted_as_if_it_were_alone(policy):
    whole = policy.predict(observation(), seed=5)
    first = {name: value[:1] for name, value in observation().items()}
    np.testing.assert_allclose(policy.predict(first, seed=5), whole[:1], atol=1e-4)
    assert np.abs(policy.predict(first, seed=6) - whole[:1]).max() > 1e-3


def test_given_noise_is_what_sampling_begins_with(policy):
    noise = np.random.default_rng(0).standard_normal((3, 6, 32)).astype(np.float32)
    one = policy.predict(observation(), seed=1, noise=noise, num_steps=2)
    np.testing.assert_array_equal(policy.predict(observation(), seed=2, noise=noise, num_steps=2), one)
    assert policy.predict(observation(), noise=noise, num_steps=2, normalized=True).shape == (3, 6, 32)
    with pytest.raises(UserError, match=r"noise has shape \(3, 6, 4\); the policy wants \(3, 6, 32\)"):
        policy.predict(observation(), noise=noise[..., :4])
    with pytest.raises(UserError, match="num_steps=0"):
        policy.predict(observation(), num_steps=0)
    with pytest.raises(UserError, match="no option 'steps'"):
        policy.predict(observation(), steps=3)


def test_a_camera_that_is_missing_takes_no_part(policy):
    """Leaving it out is what openpi's mask does: masked tokens are attended to by nobody and take no position."""
    seen = observation()
    hidden = {**seen, "observation.images.wrist_is_pad": np.ones((3, 1), bool)}
    without = {name: value for name, value in seen.items() if "wrist" not in name}
    np.testing.assert_allclose(policy.predict(without), policy.predict(hidden), atol=1e-4)
    assert np.abs(policy.predict(without) - policy.predict(seen)).max() > 1e-5


@pytest.mark.slow
def test_padding_counts_in_no_loss(policy):
    given = batch()
    padded = {**given, "action_is_pad": np.zeros((3, 6), bool)}
    padded["action_is_pad"][:, 4:] = True
    other = {**padded, "action": padded["action"].copy()}
    other["action"][:, 4:] = 9.0
    inputs, count = policy.loss_inputs(padded, 8)
    assert len(inputs["state"]) == 8 and count == 3 * 4 * 32
    assert policy.loss(padded)["loss"] != policy.loss(given)["loss"]
    noise, time = np.zeros((3, 6, 32), np.float32), np.zeros(3, np.float32)
    fixed = {"noise": noise, "time": time + 1.0}  # pure noise: actions are seen by the target alone
    assert policy.loss({**other, **fixed}) == policy.loss({**padded, **fixed})


def test_the_loss_function_is_the_loss(policy):
    rng = np.random.default_rng(1)
    draws = {
        "noise": rng.standard_normal((3, 2, 1, 6, 4)).astype(np.float32),
        "time": rng.uniform(size=(3, 2, 1)).astype(np.float32),
    }
    given = {**batch(), **draws}
    inputs, _ = policy.loss_inputs(given, 8)
    found = jax.jit(policy.loss_function())(policy.weights(), inputs)
    assert float(found) == pytest.approx(policy.loss(given)["loss"], rel=1e-5)
    drawn = policy.prepare(given)
    assert drawn["noise"].shape == (3, 2, 6, 32) and drawn["time"].shape == (3, 2)
    np.testing.assert_array_equal(drawn["noise"], policy.prepare(given)["noise"])  # what is filled in is no new draw
    one = [policy.loss({**given, "noise": drawn["noise"][:, d], "time": drawn["time"][:, d]})["loss"] for d in (0, 1)]
    assert np.mean(one) == pytest.approx(float(found), rel=1e-4)


@pytest.mark.slow
def test_filled_dimensions_are_counted_or_not():
    part = trainable(count_filled_dims=False)
    policy = part.policy(part.weights)
    assert policy.loss_inputs(batch(), 3)[1] == 3 * 6 * 4
    whole = trainable()
    assert policy.loss(batch())["loss"] != whole.policy(whole.weights).loss(batch())["loss"]


@pytest.mark.slow
def test_every_weight_but_the_dead_ones_learns(made):
    inputs = made.prepare(batch())
    weights = jax.tree.map(
        lambda leaf: leaf + 0.02 * np.random.default_rng(0).standard_normal(leaf.shape), made.weights
    )
    gradient = jax.jit(jax.grad(lambda w: made.loss(w, inputs, jax.random.key(0), True)[0]))(weights)
    dead = {path for path, leaf in flatten(gradient).items() if np.abs(np.asarray(leaf)).max() < 1e-7}
    assert dead <= {
        "PaliGemma/llm/final_norm/scale",
        "PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/key/bias",
    }


@pytest.mark.slow
def test_relative_actions_come_back_in_dataset_units(tmp_path):
    def deltas(lags, anchor, exclude):
        assert anchor == "observation.state" and list(exclude) == [3] and len(lags) == 6
        found = entry(4)
        return {{"p01": "q01", "p99": "q99"}.get(name, name): value for name, value in found.items() if name != "mask"}

    names = ("x", "y", "z", "gripper")
    given = DataTransforms(action_space="relative", exclude=("gripper",), action_names=names, deltas=deltas)
    part = trainable(transforms=given)
    policy = part.policy(part.weights)
    moved = observation()
    noise = np.zeros((3, 6, 32), np.float32)
    seen = policy.predict(moved, noise=noise, normalized=True)
    state = moved["observation.state"][:, -1:, :4] * np.array([1, 1, 1, 0], np.float32)
    expected = policy.assembly.prepare.action.unnormalize(seen)[..., :4] + state
    np.testing.assert_allclose(policy.predict(moved, noise=noise), expected, atol=1e-5)
    policy.save(tmp_path / "relative")
    again = families.load_policy(tmp_path / "relative")
    np.testing.assert_array_equal(again.predict(moved, noise=noise), policy.predict(moved, noise=noise))
    assert again.loss(batch()) == policy.loss(batch())
    with pytest.raises(UserError, match="learned relative actions.*Type action_space=relative"):
        trainable(pretrained=tmp_path / "relative")


def test_a_map_of_cameras_is_kept(policy, tmp_path):
    policy.save(tmp_path / "policy")
    mapped = families.load_policy(tmp_path / "policy", camera_map={"base_0_rgb": "front", "left_wrist_0_rgb": None})
    assert mapped.camera_slots == {"base_0_rgb": "front"} and list(mapped.spec.cameras) == ["front"]
    mapped.save(tmp_path / "again")
    assert families.load_policy(tmp_path / "again").camera_slots == {"base_0_rgb": "front"}
    with pytest.raises(UserError, match="names 'base', which is no image input"):
        families.load_policy(tmp_path / "policy", camera_map={"base": "front"})


@pytest.mark.parametrize(
    ("given", "cameras", "chosen"),
    [
        ({}, ["cam"], {"base_0_rgb": "cam"}),
        ({}, ["wrist"], {"base_0_rgb": "wrist"}),
        (
            {},
            ["hand_right", "hand_left", "top"],
            {"base_0_rgb": "top", "left_wrist_0_rgb": "hand_left", "right_wrist_0_rgb": "hand_right"},
        ),
        ({"base_0_rgb": "side"}, ["top", "side"], {"base_0_rgb": "side"}),
    ],
)
def test_cameras_are_chosen_by_their_names(given, cameras, chosen):
    slots = {"base_0_rgb": None, "left_wrist_0_rgb": None, "right_wrist_0_rgb": None}
    assert resolve_cameras({**slots, **given}, cameras) == chosen


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"variant": "pi06"}, "model.variant=pi06: allowed are pi05, pi0"),
        ({"prompt_length": 0}, "model.prompt_length=0"),
        ({"promt_length": 9}, "model.promt_length: the family pi0 has no such option"),
        ({"action": "gemma_300m"}, "the two attend to each other layer by layer"),
        ({"cameras": {"top": None}}, "model.cameras.top: a pi0 has the image inputs"),
        ({"dtype": "float16"}, "model.dtype=float16"),
        ({"tokenizer": "/nowhere"}, "There is no tokeniser in /nowhere"),
    ],
)
def test_options_that_do_not_fit_are_refused(changed, said):
    with pytest.raises(UserError) as refused:
        trainable(**changed)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["pi05", "pi0", "pi05_tiny", "pi0_tiny"])
def test_the_files_of_conf_are_read(name):
    options = Pi0Options.from_config(config(name))
    assert options.sizes().name == name.removesuffix("_tiny")
