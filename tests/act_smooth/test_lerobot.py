"""LeRobot's own tools find the plugin, train it, load it by its type name and run it, without xp."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from smooth_made_up import delta_stats, make_config, make_policy
from smooth_process import STEPS, features, observe, select

from lerobot_policy_act_smooth_xp.modeling_act_smooth import ACTSmoothPolicy

HERE = Path(__file__).parent


def run(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, cwd=cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_distribution_is_named_as_its_module():
    """LeRobot imports the module that is called exactly as the distribution; a hyphen would hide it."""
    names = [d.metadata["Name"] for d in importlib.metadata.distributions() if "act" in (d.metadata["Name"] or "")]
    assert "lerobot_policy_act_smooth_xp" in names
    assert importlib.metadata.version("lerobot_policy_act_smooth_xp")


def test_the_plugin_does_not_know_xp():
    sources = Path(importlib.import_module("lerobot_policy_act_smooth_xp").__file__).parent.glob("*.py")
    lines = [line.split() for source in sources for line in source.read_text().splitlines()]
    assert not [words for words in lines if words[:1] in (["import"], ["from"]) and words[1].split(".")[0] == "xp"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A policy with a camera and the anchor last_prefix, its processors, and the folder that they are saved in."""
    stats = delta_stats() | {"observation.images.front": {"mean": np.full((3, 1, 1), 0.5), "std": np.ones((3, 1, 1))}}
    policy = make_policy(
        stats=stats, cameras=("front",), environment=0, relative_actions=True, relative_anchor="last_prefix",
        chunk_size=12, n_action_steps=8, length_prefix_future=4,
    )  # fmt: skip
    processors = make_pre_post_processors(policy.config, dataset_stats=stats)
    folder = tmp_path_factory.mktemp("policy")
    for part in (policy, *processors):
        part.save_pretrained(folder)
    return policy, processors, folder


@pytest.fixture(scope="module")
def fresh(saved):
    """What a fresh process reports that loads the folder by its type name."""
    out = run(sys.executable, str(HERE / "smooth_process.py"), str(saved[2]))
    return json.loads(next(line for line in out.splitlines() if line.startswith('{"type"')))


def test_a_fresh_process_loads_it_by_its_type_name_and_runs_200_steps(fresh, saved):
    assert fresh["type"] == "act_smooth" and not fresh["xp"]
    policy, processors, _ = saved
    assert torch.allclose(torch.tensor(fresh["actions"]), select(policy, *processors), atol=1e-6)
    assert len(fresh["actions"]) == STEPS


def test_lerobots_engine_runs_it_in_real_time_with_a_delay(fresh):
    engine = fresh["engine"]
    assert fresh["supports_rtc"] and not engine["failed"]
    assert engine["executed"] == STEPS and engine["finite"]
    assert engine["predictions"] > 10 and max(engine["delays"]) >= 2
    # Whatever the delay was, the committed action that the robot executes next stands first in the new chunk.
    assert engine["kept"] == engine["with_left_over"] > 0


def test_the_first_action_holds_the_robot_in_dataset_units(saved):
    policy, processors, _ = saved
    first = select(policy, *processors)[0]
    state = [observe(policy, 0)[name] for name in features(policy)["observation.state"]["names"]]
    assert first.tolist() == pytest.approx(state, abs=1e-5)


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "IDENTITY"])
def test_the_action_that_holds_still_is_the_state_in_every_normalisation(mode, tmp_path):
    from lerobot.configs import NormalizationMode

    modes = {"STATE": NormalizationMode.MEAN_STD, "ACTION": NormalizationMode[mode], "ENV": NormalizationMode.IDENTITY}
    config = make_config(normalization_mapping=modes)
    pre, post = make_pre_post_processors(config, dataset_stats=delta_stats())
    policy = ACTSmoothPolicy(config, dataset_stats=delta_stats())
    state = torch.tensor([[1.0, 4.0, 9.0]])
    batch = pre({"observation.state": state, "observation.environment_state": torch.zeros(1, 4)})
    policy.save_pretrained(tmp_path)
    for each in (policy, ACTSmoothPolicy.from_pretrained(tmp_path)):
        assert torch.allclose(post(each.select_action(dict(batch))), state, atol=1e-5)


@pytest.mark.slow
def test_lerobot_train_finds_the_type_and_computes_its_statistics_of_differences(dataset, tmp_path):
    out = run(
        "lerobot-train" if not (path := Path(sys.executable).with_name("lerobot-train")).exists() else str(path),
        "--policy.type=act_smooth", "--dataset.repo_id=local/joints", f"--dataset.root={dataset}",
        f"--output_dir={tmp_path / 'out'}", "--steps=4", "--batch_size=4", "--num_workers=0", "--save_freq=4",
        "--policy.device=cpu", "--policy.push_to_hub=false", "--policy.chunk_size=5", "--policy.n_action_steps=5",
        "--policy.length_prefix_past=2", "--policy.length_prefix_future=2", "--policy.relative_actions=true",
        "--policy.relative_anchor=last_prefix", "--policy.dim_model=16", "--policy.n_heads=2",
        "--policy.relative_episodes=[0,1]", "--policy.obs_dropout_rate=0.3",
        "--policy.pretrained_backbone_weights=null",
        cwd=tmp_path,
    )  # fmt: skip
    assert "act_smooth" in out
    policy = ACTSmoothPolicy.from_pretrained(tmp_path / "out/checkpoints/last/pretrained_model")
    import pyarrow.parquet as pq

    table = pq.read_table(dataset / "data").to_pandas().query("episode_index < 2")
    path = np.stack(table["action"].to_numpy()).reshape(2, 20, 3)
    assert policy._deltas_known
    steps = [
        path[:, d - 1 + lag :][:, : 20 - (d - 1 + lag)] - path[:, d - 1 : 20 - lag]
        for d in (1, 2)
        for lag in range(1, 6)
    ]
    own = json.loads((dataset / "meta/stats.json").read_text())["action"]
    expected = np.concatenate([step.reshape(-1, 3) for step in steps]).std(0) / np.array(own["std"])
    np.testing.assert_allclose(policy.action_delta_std, expected, rtol=1e-4)
