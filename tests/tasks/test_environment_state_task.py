"""Recorded, trained on and acted by: the environment state from the command line, and who is refused."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from xp.envs import suite_named
from xp.envs.maker import EnvMaker
from xp.errors import UserError
from xp.models.policy import PolicySpec
from xp.models.sensitivity import image_sensitivity
from xp.tasks._lib.recorders import PolicyRecorder, fit_suite


def reading(numbers) -> Any:
    spec = PolicySpec(horizon=1, action_dim=6, state_dim=6, cameras={}, environment_dim=numbers)
    return SimpleNamespace(spec=spec, predict=lambda observation, seed: pytest.fail("is not asked"))


def test_a_policy_that_reads_another_environment_is_refused():
    suite = suite_named("arm", {})
    fit_suite(reading(0), suite)
    fit_suite(reading(12), suite)
    with pytest.raises(UserError, match=r"reads 7 numbers.*the suite gives 12 \(red.x, .*target.y\)"):
        fit_suite(reading(7), suite)


def test_recording_a_policy_that_reads_it_needs_it_recorded(monkeypatch):
    monkeypatch.setattr("xp.tasks._lib.recorders.load_acting_policy", lambda config, path, told: reading(12))
    config: Any = SimpleNamespace(
        collect=SimpleNamespace(policy="p", workers=1, episodes=1, load_options=None),
        chunk_size=SimpleNamespace(steps=1, execution="receding", delay=0),
    )
    config.seed = 0
    with pytest.raises(UserError, match=r"Type env.environment_state=true"):
        PolicyRecorder.load(config, EnvMaker(suite_named("arm", {}), (), environment_state=False))
    PolicyRecorder.load(config, EnvMaker(suite_named("arm", {}), (), environment_state=True))


def test_a_policy_without_cameras_is_not_called_blind():
    assert not image_sensitivity(reading(12), [{"observation.state": 0}], where="p")["blind"]


@pytest.mark.slow
def test_it_goes_from_the_suite_through_training_back_into_the_suite(xp):
    suite = ["env.tasks=[push_red]", "env.cameras={}"]
    xp("task=collect", "data.root=d", *suite, "env.environment_state=true", "collect.episodes=4", "collect.workers=1")
    act = ["model=act_tiny", "model.cameras=[]", "model.use_vae=false", "horizon.train=4", "trainer.batch_size=4"]
    xp("task=train", "data.root=d", *act, "trainer.steps=3", "trainer.val_every=3", "hydra.run.dir=run")
    features = json.loads((xp.cwd / "run/final/config.json").read_text())["input_features"]
    assert set(features) == {"observation.state", "observation.environment_state"}
    xp("task=eval", "eval.checkpoint=run", *suite, "eval.episodes=1", "env.max_steps=8", "hydra.run.dir=eval")
    metrics = json.loads((xp.cwd / "eval/metrics.json").read_text())
    assert metrics["policies"]["policy"]["all"]["num_episodes"] == 1
    xp("task=eval", "eval=offline_replay", "eval.checkpoint=run", "chunk_size.steps=4", "hydra.run.dir=replay")
    assert (xp.cwd / "replay/metrics.json").is_file()
