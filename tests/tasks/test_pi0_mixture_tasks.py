"""pi0 on a mixture of datasets of different widths by the command line: trained, killed, asked, merged, converted."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
from mixture_sets import write_sets
from tasks_setup import Xp

from xp.checkpoints.open import open_checkpoint

MIX = (
    "data.mix={{arm: {{root: {folder}/arm, weight: 0.6, cameras: {{primary: oblique, wrist: wrist}}}}, "
    "video: {{root: {folder}/video, weight: 0.4, resample: every, cameras: {{primary: high, wrist: null}}}}}}"
)
TRAIN = [
    "task=train", "data=mix", "data.fps=10", "horizon=h4", "trainer.steps=6", "trainer.batch_size=4",
    "trainer.val_windows=8", "trainer.val_every=3", "trainer.checkpoint_every=2", "trainer.keep_checkpoints=3",
    "trainer.log_every=1", "lr.warmup_steps=2", "trainer.record_answers=true", "model.count_filled_dims=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module", params=["pi05_tiny", "pi05_torch_tiny"])
def run(request, tmp_path_factory, cache, sets):
    """A run of six steps on an arm of 7 dimensions and videos of 14, and what it was started with."""
    xp = Xp(tmp_path_factory.mktemp(request.param), cache)
    line = [*TRAIN, MIX.format(folder=sets), f"model={request.param}"]
    xp(*line, "hydra.run.dir=run")
    return xp.cwd / "run", line


def weights(folder):
    reader = open_checkpoint(folder).reader
    return {name: reader.read(name, 0, leaf.size).copy() for name, leaf in reader.leaves.items()}


@pytest.mark.slow
def test_each_dataset_is_validated_and_leaves_its_asset(run):
    folder, _ = run
    summary = json.loads((folder / "summary.json").read_text())
    assert all(np.isfinite(summary["final_metrics"][f"{name}/l1_error"]) for name in ("arm", "video"))
    assert {path.parent.name for path in (folder / "final").rglob("norm_stats.json")} == {"arm", "video"}


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_weights(xp, run):
    folder, line = run
    process, log = xp.start(*line, "hydra.run.dir=killed"), xp.cwd / "killed/checkpoints/checkpoint-2"
    deadline = time.monotonic() + 600
    while not log.is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    xp(*line, "hydra.run.dir=killed")
    one, other = weights(folder / "final"), weights(xp.cwd / "killed/final")
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


@pytest.mark.slow
def test_predict_measures_the_dataset_that_is_chosen_on_what_the_run_held_out(xp, run):
    folder, _ = run
    line = ["task=predict", f"predict.checkpoint={folder}", "predict.num_trajectories=1", "predict.bootstrap=10"]
    xp(*line, "predict.unnorm_key=arm", "hydra.run.dir=arm")
    metrics = json.loads((xp.cwd / "arm/metrics.json").read_text())
    assert metrics["held_out"] == "held out by the training run"
    assert "arm, video" in xp(*line, "hydra.run.dir=none", code=2).stderr


@pytest.mark.slow
def test_it_is_merged_and_converted_with_all_its_datasets(xp, run):
    folder, line = run
    xp("task=merge", f"merge.checkpoints=[{folder}@2,{folder}@4]", "merge_method=average", "hydra.run.dir=average")
    there = "openpi_torch" if line[-1] == "model=pi05_tiny" else "openpi_jax"
    convert = ["task=convert", f"convert.checkpoint={folder}"]
    xp(*convert, f"convert.to={there}", "convert.output=there", "hydra.run.dir=1")
    assert json.loads((xp.cwd / "1/summary.json").read_text())["difference"] < 2e-3
    for place in ("average", "there"):
        assert {"arm", "video"} <= {path.parent.name for path in (xp.cwd / place).rglob("norm_stats.json")}
    said = xp(*convert, "convert.to=lerobot", "convert.output=robot", code=2).stderr
    assert "convert.load_options={unnorm_key: arm}" in said
    one = "convert.load_options={unnorm_key: video}"
    xp(*convert, one, "convert.to=lerobot", "convert.output=robot", "hydra.run.dir=2")
    assert json.loads((xp.cwd / "2/summary.json").read_text())["difference"] < 2e-3
    shutil.rmtree(xp.cwd / "robot")
