"""From a dataset in RLDS to a policy: trained from a stream of its pictures, measured, and as a part of a mixture."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tasks_setup import Xp

from xp.config import compose
from xp.config.shorthand import expand_shorthand

MADE = Path(__file__).parents[1] / "data" / "rlds_made_by_tfds"
TINY = [
    "task=train", "model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32", "model.image_size=[32,32]",
    "horizon.train=2", "trainer.steps=2", "trainer.batch_size=2", "lr=constant", "data.val_fraction=0.4",
]  # fmt: skip


def test_keys_that_only_a_data_format_knows_are_typed_like_others():
    typed = ["task=train", "data.root=x", "data.read.fps=5", "data.read.action=[a/b,c]", 'data.read.task="do, it"']
    assert OmegaConf.to_container(compose(expand_shorthand(typed)).data.read) == {
        "fps": 5, "action": ["a/b", "c"], "task": "do, it"
    }  # fmt: skip


def test_a_policy_is_trained_and_measured_and_told_once(tmp_path, cache):
    xp = Xp(tmp_path, cache)
    arm = f"data.root={MADE / 'arm'}"
    said = xp(*TINY, arm, code=2).stderr
    assert "data.read.fps is not given" in said and "Traceback" not in said
    xp(*TINY, arm, "data.read.fps=5", "data.frames=stream", "data.workers=1", "hydra.run.dir=run")
    data = json.loads((tmp_path / "run" / "summary.json").read_text())["data"]
    assert data["read"]["fps"] == data["fps"] == 5 and (data["train_episodes"], data["held_out_episodes"]) == (3, 2)
    xp("task=predict", "predict.checkpoint=run", "horizon.predict=2", "hydra.run.dir=measured")
    assert json.loads((tmp_path / "measured" / "metrics.json").read_text())


@pytest.mark.slow
def test_two_datasets_are_mixed_each_as_it_is_told(tmp_path, cache):
    odd = "read: {fps: 10, action: [action/world_vector], state: [observation/joints]}, resample: every"
    mix = (
        f"{{a: {{root: {MADE / 'arm'}, cameras: {{top: image}}, read: {{fps: 5}}}}, "
        f"b: {{root: {MADE / 'odd'}, cameras: {{top: front_rgb}}, {odd}}}}}"
    )
    xp = Xp(tmp_path, cache)
    xp(*TINY, "data=mix", f"data.mix={mix}", "data.fps=5", "hydra.run.dir=run")
    members = json.loads((tmp_path / "run" / "summary.json").read_text())["data"]["members"]
    assert members["a"]["read"]["fps"] == 5 and members["b"]["read"]["action"] == ["action/world_vector"]
