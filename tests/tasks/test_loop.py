"""The loop of improvement by the command line: its outputs, the attempts it learns from, resuming, what is refused."""

import csv
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import xp as package

PRETRAIN = [
    "task=train", "data.root=data", "model=vintix_tiny", "horizon=h1", "model.context_len=8",
    "model.observation_emb_dim=15", "model.action_emb_dim=15", "model.intermediate_size=32", "data.val_fraction=0",
    "trainer.steps=20", "trainer.batch_size=8", "trainer.val_every=null", "lr.warmup_steps=2", "hydra.run.dir=pre",
]  # fmt: skip
LOOP = [
    "task=loop", "env=minicheetah", "pretrained_path=pre", "env.max_steps=40", "loop.num_improvement_loops=2",
    "loop.episodes_per_loop=6", "loop.finetune_steps_per_loop=5", "loop.eval_episodes=3",
    "+env.cameras.side=[24,32]", "loop.video_seconds=0.3",
]  # fmt: skip


def histories(xp, robot: str, *more: str, code: int = 0):
    return xp(
        "task=collect", f"env={robot}", "collect.format=vintix", "collect.histories=2", "collect.episodes=3",
        "env.max_steps=40", f"data.root=data/{robot}", f"hydra.run.dir=collect_{robot}", *more,
        code=code,
    )  # fmt: skip


def pretrained(xp):
    """A model that has seen little of two robots."""
    histories(xp, "go2")
    histories(xp, "a1")
    xp(*PRETRAIN)


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of the models and attempts that a loop leaves."""
    kept = [*folder.glob("models/*/model.pth"), *folder.glob("loop_*/*.h5"), folder / "returns.csv"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.mark.slow
def test_a_loop_from_histories_to_returns(xp):
    pretrained(xp)
    data = package.open_dataset(xp.cwd / "data")
    assert data.episodes.num == 4 and data.tasks == ["a1_locomotion", "go2_locomotion"]
    assert (np.asarray(data.columns["step"]) == 0).sum() == 12, "2 robots, 2 histories, 3 attempts each"
    for rule in ("self_improve", "as_published"):
        xp(*LOOP, f"loop={rule}", f"hydra.run.dir={rule}")
        run = xp.cwd / rule
        assert sorted(path.name for path in (run / "models").iterdir()) == ["initial", "loop_01", "loop_02"]
        assert sorted(path.name for path in (run / "loop_00").iterdir()) == ["loop_00.json", "trajectories.h5"]
        made = package.open_dataset(run / "loop_00")
        assert (np.asarray(made.columns["step"]) == 0).sum() == 6
        with (run / "returns.csv").open() as file:
            rows = {row["policy"]: float(row["mean_return"]) for row in csv.DictReader(file)}
        held_out = {"held_out_initial", "held_out_final"}
        assert rows.keys() == {"loop_00", "loop_01", "loop_02", "expert", "control", *held_out}
        assert rows["control"] == rows["loop_00"]
        assert (run / "figures" / "returns.png").exists()
        videos = [f"loop_0{number}_seed1000000.mp4" for number in range(3)]
        assert sorted(path.name for path in (run / "videos").iterdir()) == videos
        before, after = (package.load_policy(run / "models" / name).weights() for name in ("initial", "loop_01"))
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed and all(".minicheetah_locomotion." in name for name in changed), "the transformer is frozen"
        summary = json.loads((run / "summary.json").read_text())
        assert summary["gain"]["n_episodes"] == 3
        assert summary["gain"]["value"] == pytest.approx(rows["held_out_final"] - rows["held_out_initial"])
        assert rows["held_out_initial"] != rows["loop_00"], "further initial states"
    xp("task=eval", "eval=returns", "env=minicheetah", "env.max_steps=40", "eval.checkpoint=self_improve",
       "eval.episodes=3", "eval.first_seed=1000000", "hydra.run.dir=scored")  # fmt: skip
    scored = json.loads((xp.cwd / "scored" / "metrics.json").read_text())["tasks"]["walk"]
    final = json.loads((xp.cwd / "self_improve" / "summary.json").read_text())
    assert scored["mean_return"] == pytest.approx(
        final["returns"][final["final"].replace("initial", "loop_00")], abs=1e-4
    )
    models = [f"self_improve/models/{name}" for name in ("loop_01", "loop_02")]
    xp("task=merge", "merge_method=average", f"merge.checkpoints=[{','.join(models)}]", "hydra.run.dir=merged")
    mean, *each = (package.load_policy(xp.cwd / name).weights() for name in ("merged", *models))
    for name, array in mean.items():
        np.testing.assert_allclose(array, (each[0][name] + each[1][name]) / 2, rtol=1e-6, atol=1e-7)
    xp("task=eval", "eval=returns", "env=minicheetah", "env.max_steps=40", "eval.checkpoint=merged",
       "eval.episodes=3", "hydra.run.dir=merged_scored")  # fmt: skip
    assert json.loads((xp.cwd / "merged_scored" / "metrics.json").read_text())["tasks"]["walk"]["num_attempts"] == 3


@pytest.mark.slow
def test_a_killed_loop_ends_in_the_same_bytes(xp):
    pretrained(xp)
    command = [*LOOP, "loop=self_improve"]
    xp(*command, "hydra.run.dir=whole")
    for seen in ("models/initial", "videos", "loop_00", "models/loop_01", "videos/loop_01_seed1000000.mp4", "loop_01"):
        process = xp.start(*command, "hydra.run.dir=killed")
        deadline = time.monotonic() + 600
        while not (xp.cwd / "killed" / seen).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    xp(*command, "hydra.run.dir=killed")
    assert files(xp.cwd / "killed") == files(xp.cwd / "whole")
    videos = [f"loop_0{number}_seed1000000.mp4" for number in range(3)]
    assert sorted(path.name for path in (xp.cwd / "killed" / "videos").iterdir()) == videos, "and no unfinished one"


@pytest.mark.slow
def test_what_the_loop_cannot_do_is_refused(xp):
    pretrained(xp)
    said = xp(*LOOP, "loop=self_improve", "loop.reference_robot=go9", "hydra.run.dir=one", code=2)
    assert "loop.reference_robot=go9" in said.stderr + said.stdout
    assert "go2_locomotion" in said.stderr + said.stdout
    said = xp(*LOOP, "loop=self_improve", "env=go2", "hydra.run.dir=two", code=2)
    assert "knows the task 'go2_locomotion' already" in said.stderr + said.stdout
    said = xp(*LOOP[:4], "loop=once", "hydra.run.dir=three", code=2)
    assert "loop=self_improve" in said.stderr + said.stdout
    said = histories(xp, "go1", "collect.format=lerobot", code=2)
    assert "no place for" in said.stderr + said.stdout
