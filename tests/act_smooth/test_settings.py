"""Settings that cannot be are refused with what to type; statistics and weights that do not fit are, too."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from smooth_made_up import ACTION_DIM, delta_stats, make_batch, make_config, make_policy

from lerobot_policy_act_smooth_xp.modeling_act_smooth import ACTSmoothPolicy
from lerobot_policy_act_smooth_xp.statistics import delta_statistics


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"length_prefix_future": 0}, "length_prefix_future=0 must be 1 or more.*or take the type act"),
        ({"length_prefix_past": -1}, "length_prefix_past=-1 must be 0 or more"),
        ({"length_prefix_future": 7}, "prefix .*length_prefix_future=7.* is longer than the chunk .*chunk_size=6"),
        ({"length_prefix_past": 7}, "longer than the chunk"),
        ({"chunk_size": 0}, "chunk_size=0 must be 1 or more"),
        ({"n_action_steps": 7}, "n_action_steps=7 must lie in 1..chunk_size=6"),
        ({"n_obs_steps": 2}, "sees one observation"),
        ({"relative_anchor": "last"}, "did you mean last_prefix"),
        ({"mask": "none"}, "Allowed: training, original"),
        ({"loss_reduction": "mean"}, "Allowed: valid, all"),
        ({"relative_actions": True, "use_action_relative": True}, "set one of them"),
        ({"obs_dropout_rate": 1.5}, "not a probability"),
        ({"vision_backbone": "vit"}, "not a torchvision ResNet"),
        ({"dim_model": 18, "n_heads": 4}, "multiple of n_heads=4"),
        ({"feedforward_activation": "tanh"}, "Allowed: relu, gelu"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, text):
    with pytest.raises(ValueError, match=text):
        make_config(**given)


def test_a_policy_that_sees_nothing_is_refused():
    with pytest.raises(ValueError, match="needs a camera or"):
        ACTSmoothPolicy(make_config(environment=0))
    with pytest.raises(ValueError, match="needs the input feature 'observation.state'"):
        ACTSmoothPolicy(make_config(state=0, obs_dropout_token=True))


class TestStatisticsOfDifferences:
    def test_without_them_relative_actions_are_refused_with_what_to_give(self):
        stats = {name: value for name, value in delta_stats().items() if name != "action_delta"}
        with pytest.raises(ValueError, match=r"their keys are \['action', 'observation.state'\].*delta_statistics"):
            ACTSmoothPolicy(make_config(relative_actions=True), dataset_stats=stats)

    def test_a_policy_that_was_given_none_does_not_train_on_guesses(self):
        policy = ACTSmoothPolicy(make_config(relative_actions=True))
        with pytest.raises(ValueError, match="needs statistics of action differences"):
            policy(make_batch(policy))

    def test_another_number_of_dimensions_is_refused(self):
        stats = delta_stats() | {"action_delta": {"mean": np.zeros(2), "std": np.ones(2)}}
        with pytest.raises(ValueError):
            ACTSmoothPolicy(make_config(relative_actions=True), dataset_stats=stats)

    def test_targets_have_unit_spread_whatever_the_actions_spread_is(self):
        random = np.random.default_rng(0)
        actions = random.normal(size=(400, ACTION_DIM)).cumsum(0) * [1, 10, 100]
        episode = np.repeat([0, 1], 200)
        for anchor in ("a_t0", "last_prefix"):
            config = make_config(relative_actions=True, relative_anchor=anchor)
            stats = {
                "action": {"mean": actions.mean(0), "std": actions.std(0)},
                "action_delta": delta_statistics(actions, episode, config.delta_lags),
            }
            policy = ACTSmoothPolicy(config, dataset_stats=stats)
            normal = (actions - actions.mean(0)) / actions.std(0)
            starts = np.concatenate([np.arange(2, 200 - 8), np.arange(202, 400 - 8)])
            windows = normal[starts[:, None] + np.array(config.action_delta_indices)]
            batch = {name: torch.zeros(len(windows), *feature.shape) for name, feature in config.input_features.items()}
            batch |= {"action": torch.tensor(windows, dtype=torch.float32)}
            batch["action_is_pad"] = torch.zeros(windows.shape[:2], dtype=torch.bool)
            target = policy.predict_window(batch)["target"].detach().flatten(0, 2)
            assert torch.allclose(target.std(0), torch.ones(ACTION_DIM), atol=0.05)
            assert target.mean(0).abs().max() < 0.05

    def test_a_joint_that_never_moves_keeps_its_scale(self):
        stats = delta_stats()
        stats["action_delta"]["std"] = np.array([0.0, 0.1, 0.1])
        policy = ACTSmoothPolicy(make_config(relative_actions=True), dataset_stats=stats)
        assert policy.action_delta_std.tolist() == pytest.approx([1, 0.05, 0.05])

    def test_they_travel_with_the_weights(self, tmp_path):
        policy = make_policy(relative_actions=True)
        policy.save_pretrained(tmp_path)
        again = ACTSmoothPolicy.from_pretrained(tmp_path)
        batch = make_batch(policy)
        assert again(batch)[0] == policy(batch)[0]
        assert again.action_delta_std.tolist() == policy.action_delta_std.tolist()


class TestLoading:
    @pytest.fixture
    def folder(self, tmp_path):
        make_policy().save_pretrained(tmp_path)
        return tmp_path

    def change(self, folder, edit):
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors")

    def test_every_weight_is_checked(self, folder):
        def edit(weights):
            weights["model.extra"] = weights.pop("model.action_head.bias")
            weights["model.action_head.weight"] = weights["model.action_head.weight"][:, :3].contiguous()

        self.change(folder, edit)
        with pytest.raises(ValueError) as error:
            ACTSmoothPolicy.from_pretrained(folder)
        assert "missing: model.action_head.bias" in str(error.value)
        assert "not known: model.extra" in str(error.value)
        assert "model.action_head.weight is (3, 3) in the file, (3, 16) by config.json" in str(error.value)

    def test_windows_of_another_past_are_refused(self, folder):
        def edit(weights):
            weights["_indices_target"] += 1

        self.change(folder, edit)
        with pytest.raises(ValueError, match="windows have K = 3 past actions, config.json says 2"):
            ACTSmoothPolicy.from_pretrained(folder)

    def test_the_backbones_own_weights_are_not_fetched_for_a_checkpoint(self, folder):
        config = json.loads((folder / "config.json").read_text())
        config["pretrained_backbone_weights"] = "ResNet18_Weights.IMAGENET1K_V1"
        (folder / "config.json").write_text(json.dumps(config))
        policy = ACTSmoothPolicy.from_pretrained(folder)
        assert policy.config.pretrained_backbone_weights == "ResNet18_Weights.IMAGENET1K_V1"

    def test_the_backbone_has_a_learning_rate_of_its_own(self):
        policy = make_policy(cameras=("a",), environment=0, optimizer_lr_backbone=1e-6)
        rest, backbone = policy.get_optim_params()
        assert backbone["lr"] == 1e-6
        assert len(rest["params"]) + len(backbone["params"]) == len(list(policy.parameters()))
