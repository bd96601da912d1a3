"""A LeRobot policy with a PEFT adapter, saved as lerobot-train saves it, becomes one policy that LeRobot loads."""

import json

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors
from peft import LoraConfig, PeftModel, get_peft_model

import xp
from xp.errors import UserError
from xp.merging import merge

SIZES = {"observation.state": 4, "observation.environment_state": 3, "action": 2}


def act():
    kinds = (FeatureType.STATE, FeatureType.ENV, FeatureType.ACTION)
    features = {key: PolicyFeature(type=kind, shape=(n,)) for (key, n), kind in zip(SIZES.items(), kinds)}
    action = {"action": features.pop("action")}
    config = ACTConfig(
        input_features=features, output_features=action, chunk_size=4, n_action_steps=4, dim_model=16, n_heads=2,
        dim_feedforward=16, n_encoder_layers=1, n_decoder_layers=1, use_vae=False, device="cpu", push_to_hub=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return ACTPolicy(config)


def save_processors(policy, folder, mean):
    stats = {key: {"mean": np.full(n, float(mean)), "std": np.ones(n)} for key, n in SIZES.items()}
    for processor in make_pre_post_processors(policy.config, dataset_stats=stats):
        processor.save_pretrained(folder)


@pytest.fixture
def trained(tmp_path):
    """An adapter with other statistics than its base, as `save_checkpoint` of LeRobot writes it."""
    base = act()
    base.save_pretrained(tmp_path / "base")
    save_processors(base, tmp_path / "base", 0)
    targets = ["linear1", "linear2", "self_attn", "action_head"]
    policy = get_peft_model(base, LoraConfig(r=2, lora_alpha=8, target_modules=targets))
    policy.config.use_peft = True
    policy.config.pretrained_path = tmp_path / "base"
    for parameter in policy.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path / "checkpoints/000100/pretrained_model"
    policy.save_pretrained(folder)
    policy.config.save_pretrained(folder)
    save_processors(policy, folder, 5)
    return tmp_path, folder


def test_lerobots_adapter_becomes_the_policy_that_lerobot_itself_runs(trained):
    place, folder = trained
    with pytest.raises(UserError, match="xp task=merge .*merge.checkpoints="):
        xp.load_policy(folder)
    merge([folder.parent], "interpolate", alpha=1, base=place / "base", output=place / "out")
    assert json.loads((place / "out/config.json").read_text())["use_peft"] is False
    wanted = PeftModel.from_pretrained(ACTPolicy.from_pretrained(place / "base"), folder).merge_and_unload().eval()
    got = ACTPolicy.from_pretrained(place / "out", strict=True)
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(got.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    before, after = make_pre_post_processors(got.config, pretrained_path=str(place / "out"))
    observation = {"observation.state": torch.full((4,), 5.0), "observation.environment_state": torch.full((3,), 5.0)}
    batch = before(dict(observation))
    assert float(batch["observation.state"].abs().max()) < 1e-6, "the adapter's mean is 5, the base's 0"
    theirs = after(got.predict_action_chunk(batch)).numpy()
    ours = xp.load_policy(place / "out", device="cpu").predict(
        {key: value.numpy().reshape(1, 1, -1) for key, value in observation.items()}
        | {"observation_is_pad": np.zeros((1, 1), bool), "task": [""]}
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_adapter_and_a_whole_policy_pool_the_statistics_of_both(trained):
    place, folder = trained
    record = merge([folder, place / "base"], base=place / "base", output=place / "out").record
    assert record["statistics"]["how"] == "pooled"
    config = ACTPolicy.from_pretrained(place / "out", strict=True).config
    before, _ = make_pre_post_processors(config, pretrained_path=str(place / "out"))
    batch = before({"observation.state": torch.full((4,), 2.5), "observation.environment_state": torch.full((3,), 2.5)})
    assert float(batch["observation.state"].abs().max()) < 1e-5
