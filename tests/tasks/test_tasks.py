"""Every task from the command line, on a recorded dataset: what it leaves, and that its numbers can be trusted."""

import json
import shutil

import numpy as np
import pytest
from tasks_setup import EVERY, SMALL, weights_of


def read(path):
    return json.loads(path.read_text())


def test_collect_leaves_a_dataset_that_lerobot_opens_and_every_outcome(arm):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/arm", root=arm)
    assert dataset.num_episodes == 12
    assert set(dataset.meta.camera_keys) == {"observation.images.oblique", "observation.images.wrist"}
    assert dataset[0]["action"].shape == (6,)
    (summary,) = arm.parent.glob("outputs/*/summary.json")
    tasks = read(summary)["tasks"]
    assert set(tasks) == {"red_to_target", "push_red"}
    for outcome in tasks.values():
        assert outcome["num_success"] == outcome["num_episodes"] == len(outcome["initial_states"]) == 6


def test_collect_is_the_same_with_one_process_or_two(xp, arm):
    import pyarrow.parquet as parquet

    from xp.data import open_dataset

    same = ["env.tasks=[red_to_target,push_red]", "env.cameras={oblique: [32, 32], wrist: [32, 32]}"]
    xp("task=collect", "data.root=again", *same, "collect.episodes=6", "collect.workers=2")
    tables = [parquet.read_table(root / "data/chunk-000/file-000.parquet") for root in (arm, xp.cwd / "again")]
    assert tables[0].equals(tables[1])
    assert len({open_dataset(root).fingerprint for root in (arm, xp.cwd / "again")}) == 1


def test_collect_refuses_to_overwrite_a_dataset(xp, arm):
    done = xp("task=collect", f"data.root={arm}", "collect.episodes=1", code=2)
    assert str(arm) in done.stderr


def test_train_leaves_the_run_folder_of_the_design(trained):
    names = "config.json record.json training_log.csv validation_log.csv summary.json checkpoints best final split.json"
    assert {*names.split()} <= {path.name for path in trained.iterdir()}
    record = read(trained / "record.json")
    assert record["state"] == "done"
    assert {"jax", "numpy", "xp"} <= set(record["versions"])
    assert (trained / "training_log.csv").read_text().splitlines()[0] == "step,epoch,loss,lr,timestamp"
    assert (trained / "validation_log.csv").read_text().splitlines()[0] == (
        "step,epoch,val_loss,l1_error,direction_accuracy,gripper_accuracy,position_l1,rotation_l1,timestamp"
    )
    split = read(trained / "split.json")
    assert not set(split["train"]) & set(split["val"])
    summary = read(trained / "summary.json")
    assert summary["config"] == read(trained / "config.json")
    assert record["started"] < summary["completed_at"] < record["ended"]


def test_statistics_come_from_training_episodes_only_and_travel_with_the_policy(trained, arm):
    from xp.data import compute_statistics, open_dataset

    split = read(trained / "split.json")
    dataset = open_dataset(arm)
    (stored,) = [entry for entry in [read(trained / "final/dataset_statistics.json")]]
    stored = stored.get("action") or next(iter(stored.values()))["action"]
    expected = compute_statistics(dataset, split["train"])["action"]
    np.testing.assert_allclose(stored["mean"], expected["mean"], rtol=1e-6)
    everything = compute_statistics(dataset, (*split["train"], *split["val"]))["action"]
    assert not np.allclose(stored["mean"], everything["mean"], rtol=1e-6)


@pytest.mark.parametrize("horizon", [1, 4, 6])
def test_predict_scores_held_out_episodes_at_any_horizon(xp, trained, horizon):
    xp(
        "task=predict",
        f"predict.checkpoint={trained}",
        f"horizon.predict={horizon}",
        "hydra.run.dir=p",
        "predict.bootstrap=50",
    )
    metrics = read(xp.cwd / "p/metrics.json")
    assert (metrics["training_horizon"], metrics["prediction_horizon"]) == (4, horizon)
    assert set(metrics["held_out_episodes"]) <= set(read(trained / "split.json")["val"])
    arrays = np.load(xp.cwd / "p/predictions.npz")
    assert list(arrays["predictions"].shape) == metrics["predictions_shape"]
    assert list(arrays["ground_truth"].shape) == metrics["ground_truth_shape"]
    valid = ~arrays["is_pad"]
    errors = (arrays["predictions"] - arrays["ground_truth"])[valid]
    assert np.mean(errors**2) == pytest.approx(metrics["mse"], rel=1e-4)
    assert np.mean(np.abs(errors)) == pytest.approx(metrics["mae"], rel=1e-4)
    assert set(metrics["baselines"]) == {"zero", "mean", "hold_last"}
    assert metrics["image_sensitivity"]["noise"] > 0 and metrics["image_sensitivity"]["blind"] is False
    if horizon == 6:
        np.testing.assert_array_equal(arrays["predictions"][:, 4], arrays["predictions"][:, 3])


def test_a_foreign_octo_whose_slots_have_other_names_says_which_override_feeds_them(xp, trained, arm, tmp_path):
    foreign = shutil.copytree(trained / "final", tmp_path / "octo")
    config = read(foreign / "config.json")
    cameras = config.pop("xp")["cameras"]
    assert cameras["primary"]["camera"] == "oblique"
    (foreign / "config.json").write_text(json.dumps({**config, "xp": {}}))
    ask = ["task=predict", f"predict.data_root={arm}", "horizon.predict=4", "predict.bootstrap=50"]
    refused = xp(*ask, f"predict.checkpoint={foreign}", "hydra.run.dir=refused", code=2)
    assert "The policy's cameras are primary, wrist" in refused.stderr
    assert "'predict.camera_map={primary: oblique, wrist: wrist}'" in refused.stderr
    mapped = "predict.camera_map={primary: oblique, wrist: wrist}"
    xp(*ask, f"predict.checkpoint={foreign}", mapped, "hydra.run.dir=mapped")
    masked = "predict.camera_map={primary: oblique, wrist: null}"
    xp(*ask, f"predict.checkpoint={foreign}", masked, "hydra.run.dir=masked")
    xp(*ask, f"predict.checkpoint={trained}/final", "hydra.run.dir=own")
    own, same, other = (
        np.load(xp.cwd / name / "predictions.npz")["predictions"] for name in ("own", "mapped", "masked")
    )
    assert np.array_equal(own, same) and not np.array_equal(own, other)


def test_requery_asks_again_where_hold_last_repeats(xp, trained):
    ask = ["task=predict", f"predict.checkpoint={trained}", "horizon.predict=6", "predict.bootstrap=50"]
    xp(*ask, "horizon.extend=hold_last", "hydra.run.dir=hold")
    xp(*ask, "horizon.extend=requery", "hydra.run.dir=requery")
    hold, requery = (np.load(xp.cwd / name / "predictions.npz") for name in ("hold", "requery"))
    np.testing.assert_array_equal(hold["predictions"][:, :4], requery["predictions"][:, :4])
    inside = np.flatnonzero(requery["episode_index"][4:] == requery["episode_index"][:-4])
    np.testing.assert_array_equal(requery["predictions"][inside, 4], requery["predictions"][inside + 4, 0])


def test_two_runs_with_one_seed_give_identical_metrics_and_weights(xp, arm, trained):
    xp("task=train", f"data.root={arm}", *SMALL, "trainer.steps=12", *EVERY, "hydra.run.dir=again")
    for name, run in (("one", trained), ("two", xp.cwd / "again")):
        xp("task=predict", f"predict.checkpoint={run}", "hydra.run.dir=" + name, "predict.bootstrap=50")
    one, two = ((xp.cwd / name / "metrics.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert weights_of(trained) == weights_of(xp.cwd / "again")


def test_validation_does_not_change_the_weights(xp, arm, trained):
    off = ["trainer.val_every=null", "trainer.checkpoint_every=null", "trainer.log_every=5"]
    xp("task=train", f"data.root={arm}", *SMALL, "trainer.steps=12", *off, "hydra.run.dir=plain")
    assert weights_of(xp.cwd / "plain") == weights_of(trained)


def test_eval_reports_success_with_intervals_initial_states_a_floor_and_videos(xp, trained):
    xp("task=eval", f"eval.checkpoint={trained}", "env.tasks=[push_red]", "eval.episodes=2", "eval.videos=1",
       "env.max_steps=8", "hydra.run.dir=e")  # fmt: skip
    metrics = read(xp.cwd / "e/metrics.json")
    assert set(metrics["policies"]) == {"policy", "noop"}
    score = metrics["policies"]["policy"]["all"]
    assert score["num_episodes"] == len(score["initial_states"]) == 2
    assert score["success_interval"]["method"] == "wilson"
    assert metrics["image_sensitivity"]["noise"] > 0
    assert metrics["mujoco"]
    (video,) = (xp.cwd / "e/videos").glob("*.mp4")
    import av

    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9


def test_eval_hides_the_state_where_it_is_told_to(xp, trained):
    ask = ["task=eval", f"eval.checkpoint={trained}", "env.tasks=[push_red]", "eval.episodes=1", "eval.videos=0",
           "eval.controls=false", "env.max_steps=3", "eval.workers=1", "eval.allow_blind=true"]  # fmt: skip
    xp(*ask, "hydra.run.dir=shown")
    xp(*ask, "eval.hide_state=true", "hydra.run.dir=hidden")
    shown, hidden = (read(xp.cwd / name / "metrics.json") for name in ("shown", "hidden"))
    assert (shown["hide_state"], hidden["hide_state"]) == (False, True)
    assert shown["image_sensitivity"] != hidden["image_sensitivity"], "another observation, other actions"


def test_eval_refuses_a_policy_that_ignores_its_images_unless_told_otherwise(xp, trained, tmp_path):
    blind = blinded(trained, tmp_path / "blind")
    ask = ["task=eval", f"eval.checkpoint={blind}", "env.tasks=[push_red]", "eval.episodes=1", "eval.videos=0",
           "eval.controls=false", "env.max_steps=1"]  # fmt: skip
    refused = xp(*ask, "hydra.run.dir=refused", code=2)
    assert "ignores its images" in refused.stderr and "eval.allow_blind=true" in refused.stderr
    assert not (xp.cwd / "refused/metrics.json").exists()
    xp(*ask, "eval.allow_blind=true", "hydra.run.dir=allowed")
    assert read(xp.cwd / "allowed/metrics.json")["image_sensitivity"]["blind"] is True


def blinded(run, folder):
    """The run's policy with image tokens that are the same whatever is seen."""
    import shutil

    from xp.checkpoints.flax_msgpack import read_tree, write_tree

    shutil.copytree(run / "final", folder)
    (file,) = folder.glob("*/default/checkpoint")
    tree = read_tree(file)
    for name, entry in tree["octo_transformer"].items():
        if name in ("obs_primary_projection", "obs_wrist_projection"):
            entry["kernel"] = np.zeros_like(entry["kernel"])
    write_tree(file, tree)
    return folder


def test_eval_refuses_a_chunk_longer_than_the_horizon(xp, trained):
    done = xp("task=eval", f"eval.checkpoint={trained}", "chunk_size.steps=9", code=2)
    assert "chunk_size.steps=1..4" in done.stderr


def test_a_finished_run_is_skipped_and_another_configuration_refused(xp, trained, arm):
    same = ["task=train", f"data.root={arm}", *SMALL, "trainer.steps=12", *EVERY, f"hydra.run.dir={trained}"]
    before = (trained / "record.json").read_bytes()
    assert "already done" in xp(*same).stdout
    assert (trained / "record.json").read_bytes() == before
    refused = xp(*same, "lr.peak=1e-5", code=2)
    assert "lr.peak" in refused.stderr


def test_report_of_one_run_and_status_of_all(xp, trained):
    xp("task=report", f"report.folder={trained}")
    assert (trained / "report.html").is_file()
    assert "done" in xp("task=status", f"status.folder={trained.parent}").stdout


def test_finetuning_starts_from_a_policy_and_says_what_it_kept(xp, arm, trained):
    start = ["task=train", f"data.root={arm}", *SMALL, "trainer.steps=2", "trainer.val_every=null"]
    done = xp(*start, f"pretrained_path={trained}", "horizon.train=8", "hydra.run.dir=f")
    assert "weights loaded" in done.stdout
    assert "Freshly initialised" in done.stdout
