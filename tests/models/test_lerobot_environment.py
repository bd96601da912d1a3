"""Policies that go by LeRobot's `observation.environment_state`, with or without cameras."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_made_up import ACT, DATA, DIFFUSION, SMOOTH, batch_for, made, statistics

from xp.errors import UserError
from xp.models import load_policy
from xp.models.family import BuildRequest
from xp.models.lerobot.build import build

KEY = "observation.environment_state"
SEEN = dataclasses.replace(DATA, environment_dim=5)
STATISTICS = {**statistics(), "environment_state": statistics(5)["action"]}


def trainable(model, data=SEEN):
    return build(BuildRequest(model, data=data, statistics=STATISTICS, horizon=4, seed=0))


def batch_of(spec, cameras=()):
    around = np.random.default_rng(5).normal(size=(3, spec.history, 5)).astype(np.float32)
    return {**batch_for(spec, cameras={name: (32, 32, 3) for name in cameras}), KEY: around}


@pytest.mark.parametrize("model", [ACT, DIFFUSION, SMOOTH], ids=["act", "diffusion", "act_smooth"])
def test_a_policy_without_cameras_trains_on_it_acts_by_it_and_is_saved_with_it(tmp_path, model):
    found = trainable({**model, "cameras": []})
    assert (found.spec.environment_dim, dict(found.spec.cameras)) == (5, {})
    batch = batch_of(found.spec)
    loss, _ = found.loss(found.prepare(batch))
    loss.backward()
    policy = found.policy(None)
    policy.save(tmp_path / "policy")
    features = json.loads((tmp_path / "policy/config.json").read_text())["input_features"]
    assert features[KEY] == {"type": "ENV", "shape": [5]}
    again = load_policy(tmp_path / "policy")
    assert again.spec == found.spec
    actions = policy.predict(batch)
    assert np.array_equal(again.predict(batch), actions)
    assert np.abs(policy.predict({**batch, KEY: batch[KEY] + 1}) - actions).max() > 1e-4


@pytest.mark.parametrize("mode", ["MEAN_STD", None])
def test_it_is_normalised_where_the_policy_says_so_and_read_as_lerobot_does(mode):
    """LeRobot's ACT does not say so."""
    from lerobot.policies.act.modeling_act import ACTPolicy

    modes = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD", "ENV": mode}
    found = trainable({**ACT, "normalization_mapping": modes} if mode else ACT)
    theirs = ACTPolicy(found.module.config).eval()
    theirs.load_state_dict(found.module.state_dict())
    batch = batch_of(found.spec, cameras=("front", "wrist"))
    entry, action = STATISTICS["environment_state"], STATISTICS["action"]
    policy: Any = found.policy(None)
    inputs = policy.assembly.preprocess(policy.assembly.prepare({k: v for k, v in batch.items() if "action" not in k}))
    around = torch.tensor(batch[KEY][:, -1])
    inputs[KEY] = (around - torch.tensor(entry["mean"])) / torch.tensor(entry["std"]) if mode else around
    expected = theirs.predict_action_chunk(inputs).detach().numpy() * action["std"] + action["mean"]
    np.testing.assert_allclose(policy.predict(batch), expected, atol=1e-5)


def test_a_dataset_without_one_leaves_it_out():
    assert made(ACT).spec.environment_dim == 0
    assert KEY not in made(ACT).module.config.input_features


def test_an_observation_without_it_or_of_another_size_is_refused():
    policy = trainable({**ACT, "cameras": []}).policy(None)
    batch = batch_of(policy.spec)
    with pytest.raises(UserError, match=r"environment_state.*is missing.*env.environment_state=true"):
        policy.predict({key: value for key, value in batch.items() if key != KEY})
    with pytest.raises(UserError, match=r"has shape \(3, 1, 4\); .*B, T, 5"):
        policy.predict({**batch, KEY: batch[KEY][..., :4]})


def test_a_policy_with_nothing_to_go_by_is_refused():
    with pytest.raises(UserError, match="at least one image or the environment state"):
        trainable({**ACT, "cameras": []}, DATA)
