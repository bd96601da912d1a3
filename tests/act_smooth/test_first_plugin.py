"""The published plugin `lerobot_policy_act_smooth` 0.1.0: its folders here, ours there, and both in one environment."""

import json
import subprocess
import sys

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import save_file
from smooth_made_up import ACTION_DIM, delta_stats, make_policy

import xp
from lerobot_policy_act_smooth_xp.modeling_act_smooth import ACTSmoothPolicy
from xp.errors import UserError
from xp.models.lerobot import catalog

FIRST = {
    "type", "n_obs_steps", "chunk_size", "n_action_steps", "length_prefix_past", "length_prefix_future",
    "use_action_relative", "normalization_mapping", "vision_backbone", "pretrained_backbone_weights",
    "replace_final_stride_with_dilation", "pre_norm", "dim_model", "n_heads", "dim_feedforward",
    "feedforward_activation", "n_encoder_layers", "n_decoder_layers", "use_vae", "latent_dim",
    "n_vae_encoder_layers", "dropout", "kl_weight", "optimizer_lr", "optimizer_weight_decay",
    "optimizer_lr_backbone",
}  # fmt: skip
"""Fields of the published configuration (read from its wheel); the others are LeRobot's."""
OLD = {"mask": "original", "use_action_relative": True}


def saved(folder, **changes):
    policy = make_policy(stats=delta_stats(), **changes)
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(policy.config, dataset_stats=delta_stats()):
        processor.save_pretrained(folder)
    return policy, json.loads((folder / "config.json").read_text())


def asked(policy, seed=0):
    batch = {"observation.state": torch.randn(2, ACTION_DIM), "observation.environment_state": torch.randn(2, 4)}
    future = torch.randn(2, 2, ACTION_DIM, generator=torch.Generator().manual_seed(seed))
    return policy.continue_prefix(batch, future, None)


def test_a_folder_that_uses_nothing_new_has_the_first_plugins_fields_and_steps_only(tmp_path):
    from dataclasses import fields

    from lerobot.configs import PreTrainedConfig

    training = {"obs_dropout_rate": 0.3, "loss_reduction": "all"}
    policy, config = saved(tmp_path, **OLD, **training)
    assert config.keys() <= FIRST | {field.name for field in fields(PreTrainedConfig)}
    steps = json.loads((tmp_path / "policy_preprocessor.json").read_text())["steps"]
    assert [step["registry_name"] for step in steps] == [
        "rename_observations_processor", "to_batch_processor", "device_processor", "normalizer_processor",
    ]  # fmt: skip
    assert json.loads((tmp_path / "act_smooth.json").read_text())["training"] == training
    assert set(policy.state_dict()) == set(ACTSmoothPolicy.from_pretrained(tmp_path).state_dict())
    assert xp.load_policy(tmp_path, device="cpu").module.config.loss_reduction == "all"


@pytest.mark.parametrize("new", [{"mask": "training"}, {"relative_actions": True}, {"obs_dropout_token": True}])
def test_what_the_first_plugin_cannot_do_stands_in_the_configuration(new, tmp_path):
    _, config = saved(tmp_path, **({"mask": "original"} | new))
    assert config.keys() - FIRST >= new.keys()


def test_a_folder_that_does_not_say_which_mask_is_run_as_its_author_ran_it(tmp_path):
    policy, config = saved(tmp_path, **OLD)
    assert "mask" not in config
    with torch.no_grad():
        torch.manual_seed(0)
        expected = asked(policy)
        for loaded in (ACTSmoothPolicy.from_pretrained(tmp_path), xp.load_policy(tmp_path, device="cpu").module):
            torch.manual_seed(0)
            assert loaded.config.mask == "original" and torch.allclose(asked(loaded), expected, atol=1e-6)
        chosen = xp.load_policy(tmp_path, device="cpu", mask="training").module
        torch.manual_seed(0)
        assert chosen.config.mask == "training" and (asked(chosen) - expected).abs().max() > 1e-3
    with pytest.raises(UserError, match="mask=trainig: allowed are training and original.*did you mean 'training'"):
        xp.load_policy(tmp_path, mask="trainig")


def test_a_new_policy_is_run_with_the_mask_of_its_training(tmp_path):
    policy, config = saved(tmp_path)
    assert policy.config.mask == config["mask"] == "training"


def test_only_act_smooth_has_a_choice_of_masks(tmp_path):
    (tmp_path / "config.json").write_text('{"type": "act"}')
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="only act_smooth has a choice of masks"):
        xp.load_policy(tmp_path, mask="original")


def test_with_both_plugins_one_error_says_which_to_remove(tmp_path):
    """A distribution of the published plugin's name, which registers the type as that does."""
    info = tmp_path / "lerobot_policy_act_smooth-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot_policy_act_smooth\nVersion: 0.1.0\n")
    (tmp_path / "lerobot_policy_act_smooth.py").write_text(
        "from dataclasses import dataclass\nfrom lerobot.configs import PreTrainedConfig\n"
        "@PreTrainedConfig.register_subclass('act_smooth')\n@dataclass\nclass First(PreTrainedConfig):\n    pass\n"
    )
    script = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom xp.models.lerobot import catalog\n"
        "try:\n    catalog.config_class('act_smooth')\nexcept Exception as e:\n    print(type(e).__name__, e)\n"
        "try:\n    import lerobot_policy_act_smooth_xp\nexcept ImportError as error:\n    print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True).stdout
    assert "UserError model.type=act_smooth is brought by another plugin, lerobot_policy_act_smooth." in out
    assert "Type: uv pip uninstall lerobot_policy_act_smooth. Then" in out
    assert "Two plugins bring the policy type act_smooth" in out and "`pip uninstall lerobot_policy_act_smooth`" in out


def test_the_distribution_is_called_by_a_name_of_its_own():
    from importlib.metadata import distribution, entry_points

    from xp.runs.records.record import DISTRIBUTION, versions

    assert distribution(DISTRIBUTION).version == dict(versions())["xp"]
    assert entry_points(group="console_scripts")["xp"].value == "xp.__main__:main"
    assert catalog.config_class("act_smooth").__module__.partition(".")[0] == catalog.ACT_SMOOTH
