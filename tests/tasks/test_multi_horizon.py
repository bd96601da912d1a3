"""The main job, at a size that runs in a minute: all files, the same bytes however it is run, nothing twice."""

import json
import os
import signal
import time

import numpy as np
import pytest
from tasks_setup import SMALL, Xp, weights_of

SHORT = [
    *SMALL,
    "trainer.steps=6",
    "trainer.val_every=3",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "env.cameras={oblique: [32, 32], wrist: [32, 32]}",
    "collect.episodes=4",
    "collect.workers=1",
    "predict.bootstrap=50",
    "chunk_size.steps=1",
    "eval.episodes=2",
    "eval.videos=0",
]
MAIN = ["+experiment=multi_horizon", "-m", *SHORT]
HORIZONS = (1, 4, 8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """The main job run undisturbed by two workers."""
    xp = Xp(tmp_path_factory.mktemp("main"), cache)
    xp.last = xp(*MAIN, "hydra.launcher.n_jobs=2", timeout=900)
    return xp


def experiment(xp):
    return xp.cwd / "multirun/multi_horizon"


def test_the_main_job_leaves_nine_cells_that_agree_with_their_arrays(finished):
    folder = experiment(finished)
    summary = json.loads((folder / "summary.json").read_text())
    assert isinstance(summary, list)
    assert len(summary) == 9
    for trained in HORIZONS:
        assert weights_of(folder / f"horizon_{trained}")
        for predicted in HORIZONS:
            cell = folder / f"train_h{trained}_pred_h{predicted}"
            metrics = json.loads((cell / "metrics.json").read_text())
            arrays = np.load(cell / "predictions.npz")
            assert (metrics["training_horizon"], metrics["prediction_horizon"]) == (trained, predicted)
            assert list(arrays["predictions"].shape) == metrics["predictions_shape"]
            assert metrics["predictions_shape"] == metrics["ground_truth_shape"]
            assert metrics["predictions_shape"][1] == predicted
    assert {path.name for path in folder.iterdir()} >= {"report.html", "summary.csv", "figures", "pretrain", "collect"}
    assert list((folder / "figures").glob("*.png"))


def test_every_model_is_scored_in_the_suite_beside_one_that_does_nothing(finished):
    for trained in HORIZONS:
        metrics = json.loads((experiment(finished) / f"success_h{trained}_execute_1/metrics.json").read_text())
        assert metrics["chunk_steps"] == 1 and metrics["checkpoint"].endswith(f"horizon_{trained}")
        assert {name: entry["all"]["num_episodes"] for name, entry in metrics["policies"].items()} == {
            "policy": 2,
            "noop": 2,
        }
    page = (experiment(finished) / "report.html").read_text()
    assert "Success of each policy" in page and "Differences in success: push_red" in page


def test_the_last_lines_are_the_table_and_the_path_of_the_report(finished):
    lines = finished.last.stdout.rstrip().splitlines()
    assert lines[-1] == f"Report: {experiment(finished) / 'report.html'}"
    assert any("trained on h8" in line for line in lines[-40:])
    assert any("hold-last" in line for line in lines[-40:])
    assert any("h8_execute_1" in line for line in lines[-12:])


def test_the_page_needs_no_network(finished):
    page = (experiment(finished) / "report.html").read_text()
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_running_again_computes_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in experiment(finished).rglob("*") if path.is_file()}
    begin = time.monotonic()
    again = finished(*MAIN)
    assert time.monotonic() - begin < 60  # the bound is 10 s on a quiet machine
    assert "nothing to run" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_plan_shows_what_is_done_and_what_is_missing(finished):
    plan = finished(*MAIN, "horizon.train=1,4,8,16", "hydra.sweeper.dry_run=true").stdout
    assert "horizon_16" in plan
    assert "23 jobs" in plan
    assert not (experiment(finished) / "horizon_16").exists()


def test_one_worker_gives_the_weights_of_two(finished, xp):
    xp(*MAIN, "hydra.launcher.n_jobs=1", "horizon.train=4", "horizon.predict=4", timeout=900)
    assert weights_of(experiment(xp) / "horizon_4") == weights_of(experiment(finished) / "horizon_4")
    cells = [(experiment(run) / "train_h4_pred_h4/metrics.json").read_bytes() for run in (xp, finished)]
    assert cells[0] == cells[1]


def test_kill_9_of_the_whole_group_while_finetuning_and_again(finished, xp):
    line = [*MAIN, "horizon.train=4,8", "horizon.predict=8", "hydra.launcher.n_jobs=2"]
    process = xp.start(*line)
    log = experiment(xp) / "horizon_8/training_log.csv"
    deadline = time.monotonic() + 400
    while not (log.exists() and len(log.read_text().splitlines()) > 2) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    xp(*line, timeout=900)
    for horizon in (4, 8):
        name = f"horizon_{horizon}"
        assert weights_of(experiment(xp) / name) == weights_of(experiment(finished) / name)


def test_skip_flags_of_the_first_scripts(finished, xp):
    assert "is skipped" in xp(*MAIN, "experiment.skip_finetuning=true", code=2).stderr
    skipped = finished(*MAIN, "experiment.skip_finetuning=true")
    assert "nothing to run" in skipped.stdout
    plan = finished(*MAIN, "experiment.skip_predictions=true", "hydra.sweeper.dry_run=true").stdout
    assert "predict" not in plan.replace("skip_predictions", "")


def test_an_old_flag_value_reaches_its_job(finished):
    config = json.loads((experiment(finished) / "horizon_8/config.json").read_text())
    assert config["pretrained_path"].endswith("multi_horizon/pretrain")
    assert config["trainer"]["steps"] == 6
