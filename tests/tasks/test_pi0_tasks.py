"""pi0 by the command line, in JAX and in torch: trained, killed, loaded, converted, asked again, merged."""

import csv
import json
import shutil
import signal
import time

import numpy as np
import pytest

from xp.checkpoints.open import open_checkpoint
from xp.checkpoints.safetensors import open_folder
from xp.models.recorded_answer import FILE

TRAIN = [
    "task=train", "horizon=h4", "trainer.steps=6", "trainer.batch_size=4", "trainer.val_windows=8",
    "trainer.val_every=3", "trainer.checkpoint_every=2", "trainer.keep_checkpoints=3", "trainer.log_every=1",
    "lr.warmup_steps=2",
]  # fmt: skip
EVAL = [
    "task=eval", "eval.episodes=1", "eval.videos=0", "eval.workers=1", "env.tasks=[push_red]", "env.max_steps=8",
    "eval.allow_blind=true",
]  # fmt: skip
FEW = ["predict.num_trajectories=1", "predict.bootstrap=10"]


@pytest.fixture(scope="module", params=["pi05_tiny", "pi05_torch_tiny"])
def run(request, tmp_path_factory, cache, arm):
    """A run of six steps whose policies have recorded answers, and its model."""
    from tasks_setup import Xp

    xp = Xp(tmp_path_factory.mktemp(request.param), cache)
    model = f"model={request.param}"
    xp(*TRAIN, model, f"data.root={arm}", "trainer.record_answers=true", "hydra.run.dir=run")
    return xp.cwd / "run", model


def weights(folder):
    reader = open_checkpoint(folder).reader
    return {name: reader.read(name, 0, leaf.size).copy() for name, leaf in reader.leaves.items()}


@pytest.mark.slow
def test_what_a_family_alone_can_be_told_is_told_on_the_command_line(xp, run):
    folder, _ = run
    line = ["task=predict", f"predict.checkpoint={folder}", *FEW]
    xp(*line, "hydra.run.dir=plain")
    xp(*line, "predict.load_options={asset_id: xp, dtype: bfloat16}", "hydra.run.dir=half")
    plain, half = (json.loads((xp.cwd / name / "metrics.json").read_text())["mse"] for name in ("plain", "half"))
    assert half != plain and half == pytest.approx(plain, rel=0.1)
    assert "'lab' is none of them" in xp(*line, "predict.load_options={asset_id: lab}", code=2).stderr
    assert "has no such option" in xp(*line, "predict.load_options={asset: xp}", code=2).stderr
    assert "predict.load_options=xp: give" in xp(*line, "predict.load_options=xp", code=2).stderr


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_weights(xp, run, arm):
    folder, model = run
    line = [*TRAIN, model, f"data.root={arm}", "hydra.run.dir=killed"]
    process, log = xp.start(*line), xp.cwd / "killed/checkpoints/checkpoint-2"
    deadline = time.monotonic() + 600
    while not log.is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    xp(*line)
    one, other = weights(folder / "final"), weights(xp.cwd / "killed/final")
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


@pytest.mark.slow
def test_a_checkpoint_is_converted_asked_again_and_told_from_a_changed_one(xp, run):
    folder, model = run
    there, back = ("openpi_torch", "openpi_jax") if model == "model=pi05_tiny" else ("openpi_jax", "openpi_torch")
    xp("task=convert", f"convert.checkpoint={folder}", f"convert.to={there}", "hydra.run.dir=there")
    summary = json.loads((xp.cwd / "there/summary.json").read_text())
    assert summary["to"] == there and 0 <= summary["difference"] < 2e-3
    xp("task=convert", "convert.checkpoint=there", "convert.to=lerobot", "convert.output=lerobot", "hydra.run.dir=1")
    xp("task=convert", "convert.checkpoint=lerobot", f"convert.to={back}", "convert.output=back", "hydra.run.dir=2")
    one, other = weights(folder / "final"), weights(xp.cwd / "back")
    assert all(np.array_equal(array, other[name]) for name, array in one.items()) and one.keys() == other.keys()
    xp("task=convert", "convert.checkpoint=back", "hydra.run.dir=3")
    assert (
        "convert.to=onnx: the formats are"
        in xp("task=convert", "convert.checkpoint=back", "convert.to=onnx", code=2).stderr
    )
    assert (
        "exists already"
        in xp("task=convert", "convert.checkpoint=back", f"convert.to={there}", "convert.output=lerobot", code=2).stderr
    )
    for file in (xp.cwd / "back").rglob("norm_stats.json"):
        content = json.loads(file.read_text())
        content["norm_stats"]["actions"]["q01"][0] -= 1.0
        file.write_text(json.dumps(content))
    assert "no longer answers as it did" in xp("task=convert", "convert.checkpoint=back", code=2).stderr
    (xp.cwd / "back" / FILE).unlink()
    shutil.rmtree(xp.cwd / "outputs", ignore_errors=True)
    assert "no answer is recorded beside it" in xp("task=convert", "convert.checkpoint=back", code=2).stderr


@pytest.mark.slow
def test_it_acts_in_simulation_and_is_merged_by_loss(xp, run):
    folder, _ = run
    xp(*EVAL, f"eval.checkpoint={folder}", "hydra.run.dir=eval")
    xp("task=dump", f"dump.checkpoint={folder}", "dump.samples=8", "dump.draws=2", "dump.output=val.safetensors")
    line = ["task=merge", f"merge.checkpoints=[{folder}@2,{folder}@4,{folder}@6]"]
    xp(*line, "merge_method=average", "hydra.run.dir=average")
    xp(*line, "merge_method=inverse_loss", "merge.validation=val.safetensors", "hydra.run.dir=inverse")
    xp("task=predict", "predict.checkpoint=average", f"predict.data_root={_data(folder)}", *FEW)


@pytest.mark.slow
def test_folders_as_openpi_writes_them_are_merged_by_loss(xp, run, arm):
    """Their cameras have openpi's names, and nothing says how long a chunk is."""
    folder, model = run
    to = "openpi_jax" if model == "model=pi05_tiny" else "openpi_torch"
    for step in (4, 6):
        out = [f"convert.output=raw{step}", f"hydra.run.dir=convert{step}"]
        xp("task=convert", f"convert.checkpoint={folder}@{step}", f"convert.to={to}", *out)
        for file in (xp.cwd / f"raw{step}").rglob("xp_*"):
            file.unlink()
    heads = "" if to == "openpi_jax" else ", vision_heads: 2"
    how = "load_options={horizon: 4, tokenizer: words" + heads + "}"
    cameras = "camera_map={base_0_rgb: oblique, left_wrist_0_rgb: wrist, right_wrist_0_rgb: null}"
    dump = ["task=dump", "dump.checkpoint=raw4", f"data.root={arm}", "dump.samples=8", "dump.draws=2"]
    xp(*dump, f"dump.{how}", f"dump.{cameras}", "dump.output=val.safetensors")
    merge = ["task=merge", "merge.checkpoints=[raw4,raw6]", "merge.validation=val.safetensors"]
    for method in ("inverse_loss", "gradient_descent"):
        xp(*merge, f"merge_method={method}", f"merge.{how}", f"merge.{cameras}", f"merge.output={method}")


def _data(folder):
    return json.loads((folder / "summary.json").read_text())["data"]["root"]


@pytest.mark.slow
def test_it_acts_on_while_its_next_chunk_is_computed(xp, run):
    folder, _ = run
    line = [*EVAL, f"eval.checkpoint={folder}", "chunk_size.execution=real_time", "chunk_size.delay=1"]
    xp(*line, "chunk_size.steps=2", "hydra.run.dir=eval")
    rows = csv.DictReader((xp.cwd / "eval/episodes.csv").read_text().splitlines())
    (acted,) = [row for row in rows if row["policy"] == "policy"]
    assert acted["steps"] == "8" and acted["queries"] == "4"
    assert "predicts 4" in xp(*line, "chunk_size.steps=4", "hydra.run.dir=other", code=2).stderr


@pytest.mark.slow
def test_low_rank_updates_in_torch_are_folded_by_merges_and_conversions(xp, arm):
    updates = ["model.language=dummy_lora", "model.action=dummy_lora"]
    line = [*TRAIN, "model=pi05_torch_tiny", f"data.root={arm}", *updates, "trainer.record_answers=true"]
    xp(*line, "hydra.run.dir=run")
    assert any("lora_a" in name for name in open_folder(xp.cwd / "run/final").leaves)
    xp("task=merge", "merge_method=average", "merge.checkpoints=[run@4,run@6]", "merge.output=merged")
    for step in (4, 6):
        xp("task=convert", f"convert.checkpoint=run@{step}", "convert.to=openpi_torch", f"convert.output=folded{step}")
    xp("task=merge", "merge_method=average", "merge.checkpoints=[folded4,folded6]", "merge.output=other")
    one, other = weights(xp.cwd / "merged"), weights(xp.cwd / "other")
    assert one.keys() == other.keys() and not any("lora" in name for name in one)
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], atol=1e-6, err_msg=name)
    xp(
        "task=convert", "convert.checkpoint=merged", "convert.to=openpi_jax", "convert.check=made",
        "convert.output=jax", "hydra.run.dir=convert",
    )  # fmt: skip
    assert json.loads((xp.cwd / "convert/summary.json").read_text())["difference"] < 2e-3
    xp("task=dump", "dump.checkpoint=run", "dump.samples=8", "dump.draws=2", "dump.output=val.safetensors")
    by_loss = ["task=merge", "merge_method=inverse_loss", "merge.validation=val.safetensors"]
    said = xp(*by_loss, "merge.checkpoints=[run@4,run@6]", "merge.output=refused", code=2).stderr
    assert "fold those of each checkpoint first" in said
    xp(*by_loss, "merge.checkpoints=[folded4,folded6]", "merge.output=by_loss")


@pytest.mark.slow
def test_a_small_pi05_goes_through_all_stages_of_model_arithmetic(xp):
    done = xp(
        "+experiment=model_arithmetic", "-m", "debug=fast", "model=pi05_tiny", "trainer.batch_size=4",
        "trainer.val_windows=8", "lr.warmup_steps=2", "merge_method=average,inverse_loss", "env.max_steps=60",
        "env.cameras={oblique: [32, 32], wrist: [32, 32]}", "collect.workers=1", "eval.videos=0",
        "eval.allow_blind=true", "hydra.launcher.n_jobs=2", timeout=2400,
    )  # fmt: skip
    folder = xp.cwd / "multirun/model_arithmetic_fast"
    names = {"part_0", "part_1", "part_2", "part_3", "full", "merge_average", "merge_inverse_loss"}
    assert all(name in done.stdout for name in names)
    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert len(rows) == 4 + 1 + 2
