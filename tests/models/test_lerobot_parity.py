"""LeRobot's policies do through xp what they do through LeRobot."""

import json

import numpy as np
import pytest
import torch
from lerobot_made_up import ACT, DIFFUSION, SMOOTH, batch_for, lerobot_batch, made, statistics

from xp.models import load_policy


@pytest.fixture(scope="module")
def act_folder(tmp_path_factory):
    """An ACT made, initialised and saved by LeRobot alone."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    folder = tmp_path_factory.mktemp("act") / "pretrained_model"
    options = {key: value for key, value in ACT.items() if key not in ("name", "family", "type")}
    images = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for name in ("front", "wrist")
    }
    config = ACTConfig(
        chunk_size=4, n_action_steps=4, device="cpu", push_to_hub=False, **options,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (3,)), **images},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))},
    )  # fmt: skip
    torch.manual_seed(7)
    policy = ACTPolicy(config)
    entry = {name: value for name, value in statistics()["action"].items() if name in ("mean", "std", "min", "max")}
    image = {"mean": np.full((3, 1, 1), 0.45, np.float32), "std": np.full((3, 1, 1), 0.22, np.float32)}
    stats = {"observation.state": entry, "action": entry, **{key: image for key in images}}
    processors = make_pre_post_processors(config, dataset_stats=stats)
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return folder


def test_a_lerobot_checkpoint_gives_the_same_chunk_through_xp_and_through_lerobot(act_folder):
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    policy = load_policy(act_folder)
    batch = batch_for(policy.spec)
    theirs = ACTPolicy.from_pretrained(act_folder, strict=True)
    before, after = make_pre_post_processors(theirs.config, pretrained_path=str(act_folder))
    seen = {key: value for key, value in lerobot_batch(batch).items() if not key.startswith("action")}
    expected = after(theirs.predict_action_chunk(before(seen))).numpy()
    assert np.abs(policy.predict(batch) - expected).max() <= 1e-6
    one = policy.predict({**batch, "observation.state": batch["observation.state"] + 1})
    assert np.abs(one - expected).max() > 1e-4


def test_one_step_of_training_has_lerobots_loss_and_gradients():
    from lerobot.policies.act.modeling_act import ACTPolicy

    trainable = made(ACT)
    theirs = ACTPolicy(trainable.module.config)
    theirs.load_state_dict(trainable.module.state_dict())
    batch = batch_for(trainable.spec)
    trainable.module.train()
    theirs.train()
    torch.manual_seed(3)
    ours, parts = trainable.loss(contiguous(trainable.prepare(batch)))
    ours.backward()
    torch.manual_seed(3)
    before = trainable.policy(None).assembly.processors[0]
    expected, their_parts = theirs.forward(before(lerobot_batch(batch)))
    expected.backward()
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert parts == pytest.approx(their_parts, rel=1e-5)
    for (name, weight), (_, other) in zip(trainable.module.named_parameters(), theirs.named_parameters(), strict=True):
        scale = float(other.grad.abs().max())
        assert torch.allclose(weight.grad, other.grad, rtol=1e-4, atol=1e-5 * max(scale, 1e-3)), name


def contiguous(inputs):
    """Images with channels first in memory, as LeRobot has them: convolutions then add in the same order."""
    return {key: value.contiguous() if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}


@pytest.mark.parametrize("model", [ACT, DIFFUSION, SMOOTH], ids=["act", "diffusion", "act_smooth"])
def test_what_xp_saves_lerobot_loads_and_acts_with(tmp_path, model):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    trainable = made(model)
    policy = trainable.policy(None)
    folder = tmp_path / "pretrained_model"
    policy.save(folder)
    config = PreTrainedConfig.from_pretrained(folder)
    theirs = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    batch = batch_for(policy.spec, size=1)
    seen = {key: value for key, value in lerobot_batch(batch).items() if not key.startswith("action")}
    for _ in range(6):
        action = after(theirs.select_action(before(dict(seen))))
        assert action.shape == (1, 3) and torch.isfinite(action).all()
    again = load_policy(folder)
    assert np.array_equal(again.predict(batch, seed=1), policy.predict(batch, seed=1))
    assert again.spec == policy.spec
    assert json.loads((folder / "xp.json").read_text())["fps"] == 10.0


def test_statistics_of_the_training_episodes_travel_with_the_policy(tmp_path):
    from lerobot.processor import NormalizerProcessorStep

    policy = made(ACT).policy(None)
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    (step,) = [s for s in again.assembly.processors[0].steps if isinstance(s, NormalizerProcessorStep)]
    for theirs, ours in (("action", "action"), ("observation.state", "proprio")):
        assert np.array_equal(step._tensor_stats[theirs]["mean"], statistics()[ours]["mean"])
        assert np.array_equal(step._tensor_stats[theirs]["std"], statistics()[ours]["std"])


def test_asking_leaves_mode_and_generator_as_they_were():
    trainable = made(ACT)
    trainable.module.train()
    trainable.module.model.encoder.eval()
    before = torch.get_rng_state()
    policy = trainable.policy(None)
    batch = batch_for(policy.spec)
    first, second = policy.predict(batch, seed=5), policy.predict(batch, seed=5)
    assert np.array_equal(first, second) and policy.loss(batch, seed=5) == policy.loss(batch, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert trainable.module.training and not trainable.module.model.encoder.training


def test_the_validation_loss_is_the_training_objective_with_its_kl_term():
    trainable = made(ACT | {"dropout": 0.0})
    batch = batch_for(trainable.spec)
    trainable.module.train()
    torch.manual_seed(9)
    value, _ = trainable.loss(trainable.prepare(batch))
    found = trainable.policy(None).loss(batch, seed=9)
    assert found["loss"] == pytest.approx(float(value), rel=1e-6)
    assert found["loss"] == pytest.approx(found["l1_loss"] + 10 * found["kld_loss"], rel=1e-5)


def test_a_moving_average_is_deployed_without_touching_the_weights_in_training():
    trainable = made(ACT)
    state = {name: tensor.clone() for name, tensor in trainable.module.state_dict().items()}
    halved = {name: tensor / 2 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    policy = trainable.policy(halved)
    for name, array in policy.weights().items():
        assert np.array_equal(array, halved[name].numpy())
    assert all(torch.equal(trainable.module.state_dict()[name], tensor) for name, tensor in state.items())


def test_committed_actions_reach_act_smooth_and_the_chunk_begins_behind_them():
    policy = made(SMOOTH, action_space="relative").policy(None)
    batch = batch_for(policy.spec)
    assert (policy.spec.prefix_past, policy.spec.prefix_future, policy.spec.window) == (2, 2, (2, 6))
    prefix, past = batch["action"][:, 2:4], batch["action"][:, :2]
    chunk = policy.predict(batch, prefix=prefix, past=past)
    assert chunk.shape == (3, 4, 3)
    moved = policy.predict(batch, prefix=prefix + 1, past=past + 1)
    assert np.abs(moved - chunk).max() > 0.1
    assert policy.predict(batch).shape == (3, 4, 3)


def test_relative_actions_come_back_absolute_with_any_policy(tmp_path):
    trainable = made(ACT, action_space="relative")
    policy = trainable.policy(None)
    batch = batch_for(policy.spec)
    with torch.no_grad():
        for parameter in trainable.module.model.action_head.parameters():
            parameter.zero_()
    expected = np.repeat(batch["observation.state"][:, -1:], 4, axis=1) + 0.1
    assert np.allclose(policy.predict(batch), expected, atol=1e-5)
    policy.save(tmp_path)
    assert np.allclose(load_policy(tmp_path).predict(batch), expected, atol=1e-5)


def test_hidden_states_change_the_loss_in_training_alone():
    for model in (ACT | {"dropout": 0.0, "use_vae": False}, SMOOTH | {"dropout": 0.0, "use_vae": False}):
        trainable = made(model, obs_dropout=0.5)
        batch = batch_for(trainable.spec)
        hidden = {**batch, "observation_is_dropped": np.array([True, True, True])}
        trainable.module.train()
        values = [float(trainable.loss(trainable.prepare(given))[0].detach()) for given in (batch, hidden)]
        assert values[0] != values[1]
        policy = trainable.policy(None)
        assert policy.loss(batch) == policy.loss(hidden)
