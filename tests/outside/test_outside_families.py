"""Families from outside are trained, killed, resumed, asked, simulated and reported like xp's own."""

import json
import signal
import time

import pytest

STEPS = 240


def read(path):
    return json.loads(path.read_text())


def rows(run) -> int:
    log = run / "training_log.csv"
    return len(log.read_text().splitlines()) if log.is_file() else 0


def results(run) -> dict:
    """What a training leaves that may not depend on when it was done."""
    log = [line.rpartition(",")[0] for line in (run / "validation_log.csv").read_text().splitlines()]
    return {"log": log, **{file.name: file.read_bytes() for file in (run / "final").iterdir()}}


def test_a_training_killed_and_resumed_ends_in_the_same_bytes(outside, trained, command, family):
    run = outside.cwd / "killed"
    process = outside.start(*command[family], f"hydra.run.dir={run}")
    deadline = time.monotonic() + 300
    while rows(run) < 27 and time.monotonic() < deadline:  # of 60: behind the checkpoint at 80
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "final").exists() and (run / "checkpoints" / "checkpoint-80").exists()
    said = outside(*command[family], f"hydra.run.dir={run}")
    assert "checkpoint-" in said and read(run / "record.json")["attempts"] == 2
    assert results(run) == results(trained(family))


def test_it_learns_from_what_it_sees(outside, trained, family):
    run = trained(family)
    asked = outside("task=predict", f"predict.checkpoint={run}", "predict.bootstrap=50", "hydra.run.dir=p")
    assert "mse" in asked
    metrics = read(outside.cwd / "p/metrics.json")
    assert metrics["mae"] < 0.4 * metrics["baselines"]["mean"]["mae"]
    assert metrics["image_sensitivity"]["noise"] > 0.05 and not metrics["image_sensitivity"]["blind"]
    assert set(metrics["held_out_episodes"]) == set(read(run / "split.json")["val"][: metrics["num_trajectories"]])


def test_it_reaches_the_goals_of_the_suite_and_the_control_does_not(outside, trained, family):
    outside("task=eval", "env=toy_reach", f"eval.checkpoint={trained(family)}", "eval.episodes=12", "eval.videos=0",
            "hydra.run.dir=e")  # fmt: skip
    metrics = read(outside.cwd / "e/metrics.json")
    success = {name: entry["all"]["success_rate"] for name, entry in metrics["policies"].items()}
    assert success["policy"] >= 0.75 and success["noop"] <= 0.1
    assert metrics["toy_reach"] == "0.1.0"


def test_its_chunks_are_replayed_on_recordings(outside, trained):
    run = trained("toy_mlp")
    outside("task=eval", "eval=offline_replay", f"eval.checkpoint={run}", "eval.episodes=3", "eval.figures=0",
            "eval.bootstrap=20", "hydra.run.dir=r")  # fmt: skip
    assert (outside.cwd / "r/metrics.json").is_file()


def test_a_run_records_the_packages_version_and_is_reported(outside, trained):
    run = trained("toy_mlp")
    assert read(run / "record.json")["versions"]["xp-toys"] == "0.1.0"
    assert read(run / "summary.json")["model"] == "toy_mlp"
    outside("task=report", f"report.folder={run}")
    assert "toy_mlp" in (run / "report.html").read_text()
    assert "done" in outside("task=status", f"status.folder={run}")


def test_its_finished_run_is_skipped_and_another_option_is_another_run(outside, trained, command):
    run = trained("toy_mlp")
    assert "already done" in outside(*command["toy_mlp"], f"hydra.run.dir={run}")
    assert "model.width" in outside.refused(*command["toy_mlp"], f"hydra.run.dir={run}", "model.width=64")


@pytest.mark.slow
def test_it_learns_relative_actions_with_hidden_states_and_starts_from_its_own_policy(
    outside, episodes, trained, family
):
    short = ["trainer.steps=20", "trainer.batch_size=8", "trainer.val_every=20", "lr.warmup_steps=2"]
    said = outside("task=train", f"model={family}", f"data.root={episodes}", "obs_dropout=p30", "action_space=relative",
                   "model.history=2", *short, "hydra.run.dir=relative")  # fmt: skip
    assert "val_loss" not in said or "step 20" in said
    outside("task=predict", "predict.checkpoint=relative", "predict.bootstrap=20", "hydra.run.dir=p")
    said = outside("task=train", f"model={family}", f"data.root={episodes}", f"pretrained_path={trained(family)}",
                   "horizon.train=6", *short, "hydra.run.dir=longer")  # fmt: skip
    assert "weights loaded" in said and "Freshly initialised" in said


@pytest.mark.slow
def test_an_experiment_of_xp_runs_on_parts_from_outside_alone(outside, episodes, trained):
    short = ["trainer.steps=20", "trainer.batch_size=16", "trainer.val_every=20", "lr.warmup_steps=2"]
    said = outside("+experiment=multi_horizon", "-m", "model=toy_mlp", f"data.root={episodes}", *short,
                   f"pretrained_path={trained('toy_mlp')}", "horizon.train=1,4", "horizon.predict=1,4",
                   "hydra/launcher=toy_processes", "hydra.sweep.dir=e", timeout=900)  # fmt: skip
    assert "7 done" in said
    report = (outside.cwd / "e/report.html").read_text()
    assert "trained on h4" in report and "hold-last" in report
