"""LeRobot's policies in the torch loop: interrupted and whole runs end in the same bits, watched or not."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from training_fakes import LR, run_in, same_bytes, trainer

from xp.runs import RunInterrupted
from xp.training import ActionLayout, make_validator, train_any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import lerobot_made_up as made_up  # noqa: E402 # pyright: ignore[reportMissingImports]


class Made:
    """Batches for a policy, a pure function of the step."""

    def __init__(self, spec):
        self.spec = spec

    def at(self, step):
        hidden = np.random.default_rng(step).random(2) < 0.5
        return {**made_up.batch_for(self.spec, size=2, seed=step), "observation_is_dropped": hidden}

    def epoch(self, step):
        return step / 10


def go(folder, model, *, stop_after=None, watched=False, seed=0):
    trainable = made_up.made({**model, "vision_backbone": "resnet_narrow"}, seed=seed, obs_dropout=0.5)
    validate = make_validator(
        lambda: [made_up.batch_for(trainable.spec, seed=99)],
        layout=ActionLayout((0, 1, 2)),
        statistics=made_up.statistics(),
    )
    options = trainer(steps=5, log_every=2, checkpoint_every=2, ema_decay=0.9, val_every=1 if watched else None)
    run = run_in(folder, stop_after=stop_after)
    train_any(
        run, trainable, Made(trainable.spec), validate=validate if watched else None, trainer=options,
        lr={**LR, "peak": 1e-3}, seed=0,
    )  # fmt: skip
    return trainable


@pytest.mark.parametrize(
    "model",
    [made_up.ACT, {**made_up.ACT, "frozen_norms": "first_batch"}, made_up.SMOOTH, made_up.DIFFUSION],
    ids=["act", "act with filled norms", "act_smooth", "diffusion"],
)
def test_a_policy_goes_on_bit_for_bit_and_watching_changes_nothing(tmp_path, monkeypatch, model):
    made_up.use_narrow_backbone(monkeypatch)
    go(tmp_path / "whole", model)
    for attempt, stop in enumerate((1, 2)):
        with pytest.raises(RunInterrupted):
            go(tmp_path / "parts", model, stop_after=stop, watched=True, seed=attempt)
    go(tmp_path / "parts", model, watched=True, seed=7)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert same_bytes(
        load_file(whole / "final" / "model.safetensors"), load_file(parts / "final" / "model.safetensors")
    )
    state = "checkpoints/checkpoint-5/training_state/state.safetensors"
    assert same_bytes(load_file(whole / state), load_file(parts / state))
    assert (parts / "best" / "policy_preprocessor.json").is_file()


def test_diffusion_tiny_is_small_trains_and_answers_at_64_pixels(tmp_path):
    """A twentieth of model=diffusion's 278 M weights; LeRobot's backbone is most of it."""
    conf = Path(__file__).parents[2] / "conf" / "model"
    options = yaml.safe_load((conf / "diffusion.yaml").read_text()) | yaml.safe_load(
        (conf / "diffusion_tiny.yaml").read_text()
    )
    options.pop("defaults")
    cameras = dict.fromkeys(made_up.CAMERAS, (48, 64, 3))
    data = replace(made_up.DATA, cameras=cameras)
    trainable = made_up.made(options, data=data, horizon=8)
    assert sum(weight.numel() for weight in trainable.module.parameters()) < 14e6
    assert set(trainable.spec.cameras.values()) == {(64, 64, 3)}
    batch = made_up.batch_for(trainable.spec, size=2, cameras=cameras)
    loss, _ = trainable.loss(trainable.prepare(batch))
    loss.backward()
    assert np.isfinite(loss.item()) and loss.item() > 0.1
    policy = trainable.policy(None)
    assert policy.predict(batch, seed=1).shape == (2, 8, 3)
    policy.save(tmp_path)
    steps = json.loads((tmp_path / "policy_preprocessor.json").read_text())["steps"]
    assert "lanczos_resize" in [step["registry_name"] for step in steps]
