"""What xp trains as act_smooth is a LeRobot policy like any other: a fresh process without xp runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from smooth_process import STEPS

SMALL = [
    "horizon.train=6", "trainer.steps=6", "trainer.batch_size=4", "trainer.val_every=3", "model.dim_model=16",
    "model.n_heads=2", "model.dim_feedforward=32", "model.n_encoder_layers=1", "model.use_vae=false",
    "model.length_prefix_past=2", "model.length_prefix_future=3", "obs_dropout.rate=0.3", "action_space=relative",
    "action_space.anchor=last_prefix",
]  # fmt: skip


def run(*command, cwd):
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, cwd=cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_it_trains_is_saved_and_runs_in_a_fresh_process_of_lerobot(dataset, tmp_path):
    run(
        sys.executable, "-m", "xp", "task=train", "model=act_smooth", f"data.root={dataset}", *SMALL,
        f"paths.cache={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path,
    )  # fmt: skip
    assert json.loads((tmp_path / "run/summary.json").read_text())["model"] == "act_smooth"
    script = Path(__file__).with_name("smooth_process.py")
    out = run(sys.executable, str(script), str(tmp_path / "run/final"), cwd=tmp_path)
    found = json.loads(next(line for line in out.splitlines() if line.startswith('{"type"')))
    assert found["type"] == "act_smooth" and not found["xp"]
    assert len(found["actions"]) == STEPS
    engine = found["engine"]
    assert not engine["failed"] and engine["executed"] == STEPS and engine["finite"]
    assert engine["kept"] == engine["with_left_over"] > 0
