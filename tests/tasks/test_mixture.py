"""Training on a mixture of three datasets that differ in cameras, rate, widths and state, from the command line."""

import json
import os
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mixture_sets import MIX, write_sets
from tasks_setup import EVERY, SMALL, Xp, weights_of

from xp.errors import UserError


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"))


def command(sets, *more):
    mix = ["data=mix", MIX.format(folder=sets), "data.fps=10"]
    return ["task=train", *mix, "trainer.steps=12", *EVERY, *more]


@pytest.fixture(scope="session")
def mixed(tmp_path_factory, cache, sets):
    """An Octo trained on the three."""
    folder = tmp_path_factory.mktemp("mixed")
    Xp(folder, cache)(*command(sets, *SMALL, "trainer.record_answers=true", "hydra.run.dir=run"))
    return folder / "run"


def test_shares_and_the_validation_of_each_dataset_are_written_down(mixed):
    summary = json.loads((mixed / "summary.json").read_text())
    members = summary["data"]["members"]
    assert {name: each["share"]["asked"] for name, each in members.items()} == pytest.approx(
        {"arm": 0.5, "bare": 0.2, "video": 0.3}
    )
    assert sum(each["share"]["samples"] for each in members.values()) == 12 * 4
    shares = json.loads((mixed / "record.json").read_text())["shares"]
    assert shares == {name: each["share"] for name, each in members.items()}
    last = summary["final_metrics"]
    assert all(np.isfinite(last[f"{name}/val_loss"]) for name in members)
    weighted = sum(members[name]["share"]["asked"] * last[f"{name}/val_loss"] for name in members)
    assert last["val_loss"] == pytest.approx(weighted)
    assert {path.stem for path in (mixed / "splits").iterdir()} == set(members)


def test_the_report_has_the_shares_and_the_losses_of_each_dataset(mixed):
    from xp.report.mixture_table import mixture_table
    from xp.report.read import read_experiment
    from xp.report.training_figures import logs_by_dataset
    from xp.runs import RunFolder

    table = mixture_table(read_experiment(mixed.parent))
    assert [row[1:3] for row in table.rows] == [("arm", "50.0%"), ("bare", "20.0%"), ("video", "30.0%")]
    assert sum(int(row[4]) for row in table.rows) == 48
    logs = logs_by_dataset(RunFolder(mixed).validation_log())
    assert set(logs) == {"arm", "bare", "video"} and logs["arm"][-1]["step"] == 12
    assert all(np.isfinite(log[-1]["val_loss"]) for log in logs.values())


def test_its_recorded_answer_is_one_of_each_dataset(mixed):
    from xp.models import load_policy, recorded_answer

    policy = load_policy(mixed)
    assert policy.datasets == ("arm", "bare", "video")
    assert recorded_answer.compare(policy, recorded_answer.read(mixed / "final"), "the policy") == 0


def test_a_policy_of_a_mixture_acts_as_the_dataset_that_is_chosen(mixed):
    from xp.models import load_policy

    policy = load_policy(mixed, unnorm_key="video")
    assert policy.spec.action_dim == 14 and policy.spec.state_dim == 14
    assert policy.camera_slots == {"primary": "high", "wrist": "left"}
    bare = load_policy(mixed, unnorm_key="bare")
    assert bare.spec.action_dim == 3 and bare.spec.state_dim == 0 and set(bare.spec.cameras) == {"eye"}
    seen = {"observation.images.eye": np.zeros((2, 1, 32, 32, 3), np.uint8), "task": ["push"] * 2}
    assert bare.predict(seen).shape == (2, 4, 3)


def test_the_choice_of_a_dataset_is_saved_with_the_policy(mixed, tmp_path):
    from xp.models import load_policy

    seen = {"observation.images.eye": np.full((1, 1, 32, 32, 3), 7, np.uint8), "task": ["push"]}
    bare = load_policy(mixed, unnorm_key="bare")
    bare.save(tmp_path / "bare")
    again = load_policy(tmp_path / "bare")
    assert again.spec == bare.spec
    np.testing.assert_array_equal(again.predict(seen), bare.predict(seen))
    with pytest.raises(UserError, match="saved as that of the dataset 'bare'"):
        load_policy(tmp_path / "bare", unnorm_key="arm")


def test_a_missing_or_unknown_choice_is_refused_with_the_names(mixed):
    from xp.models import load_policy

    with pytest.raises(UserError, match=r"arm, bare, video.*none was chosen"):
        load_policy(mixed).predict({"observation.images.primary": np.zeros((1, 1, 32, 32, 3), np.uint8), "task": [""]})
    with pytest.raises(UserError, match="did you mean 'video'"):
        load_policy(mixed, unnorm_key="vdeo")


@pytest.mark.slow
def test_predict_measures_one_of_the_datasets_on_what_the_run_held_out(xp, mixed):
    xp("task=predict", f"predict.checkpoint={mixed}", "predict.unnorm_key=arm", "hydra.run.dir=arm", "horizon=h4")
    metrics = json.loads((xp.cwd / "arm" / "metrics.json").read_text())
    assert metrics["held_out"] == "held out by the training run"
    slower = ["predict.unnorm_key=video", "hydra.run.dir=video", "horizon=h4"]
    xp("task=predict", f"predict.checkpoint={mixed}", *slower)
    metrics = json.loads((xp.cwd / "video" / "metrics.json").read_text())
    episodes = len(metrics["held_out_episodes"])
    assert metrics["held_out"] == "held out by the training run" and episodes
    assert metrics["num_windows"] == 12 * episodes, "of 36 rows at 30 a second, every third"
    done = xp("task=predict", f"predict.checkpoint={mixed}", "hydra.run.dir=none", code=2)
    assert "arm, bare, video" in done.stderr + done.stdout


@pytest.mark.slow
def test_kill_9_and_resume_gives_the_same_weights(xp, sets, mixed):
    process = xp.start(*command(sets, *SMALL, "hydra.run.dir=run"))
    deadline = time.monotonic() + 600
    log = xp.cwd / "run" / "training_log.csv"
    while not (log.exists() and len(log.read_text().splitlines()) > 3) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    xp(*command(sets, *SMALL, "hydra.run.dir=run"))
    assert weights_of(xp.cwd / "run") == weights_of(mixed)


@pytest.mark.slow
def test_a_dataset_of_weight_0_is_the_same_run_as_one_left_out(xp, sets):
    two = f"data.mix={{arm: {{root: {sets}/arm}}, bare: {{root: {sets}/bare}}}}"
    three = f"data.mix={{arm: {{root: {sets}/arm}}, bare: {{root: {sets}/bare}}, no: {{root: X, weight: 0}}}}"
    small = [*SMALL, "trainer.steps=4", *EVERY, "hydra.run.dir=run"]
    xp("task=train", "data=mix", two, *small)
    before = weights_of(xp.cwd / "run")
    done = xp("task=train", "data=mix", three, *small)
    assert "done" in done.stdout + done.stderr
    assert weights_of(xp.cwd / "run") == before


SMALL_PICTURES = ["model.image_size=[32,32]", "trainer.batch_size=4", "trainer.val_windows=8"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["act_tiny", "diffusion_tiny"])
def test_a_lerobot_policy_learns_from_a_mixture_and_becomes_a_plain_one(xp, sets, tmp_path, model):
    from xp.models import load_policy, recorded_answer

    more = [f"model={model}", *SMALL_PICTURES, "lr.warmup_steps=2", "trainer.record_answers=true", "hydra.run.dir=run"]
    xp(*command(sets, *more))
    final = xp.cwd / "run"
    recorded = recorded_answer.read(final / "final")
    assert (
        recorded is not None and recorded_answer.compare(load_policy(final), recorded, "the policy") < 1e-5
    )  # threads differ
    with pytest.raises(UserError, match="arm, bare, video"):
        load_policy(final, unnorm_key="ram")
    policy = load_policy(final, unnorm_key="arm")
    assert policy.spec.action_dim == 7
    observation = {
        "observation.images.oblique": np.zeros((2, policy.spec.history, 32, 32, 3), np.uint8),
        "observation.images.wrist": np.zeros((2, policy.spec.history, 32, 32, 3), np.uint8),
        "observation.state": np.zeros((2, policy.spec.history, 7), np.float32),
        "task": ["push"] * 2,
    }
    answer = policy.predict(observation)
    policy.save(tmp_path / "plain")
    np.testing.assert_array_equal(load_policy(tmp_path / "plain").predict(observation), answer)
    processor = (tmp_path / "plain" / "policy_preprocessor.json").read_text()
    assert "xp_dataset_to_be_chosen" not in processor


VIEWS = "env.cameras={oblique: [64, 64], wrist: [64, 64]}"
PUSHER = [
    "model=octo_tiny_l1",
    "model.cameras.primary.size=[64,64]",
    "model.cameras.wrist.size=[64,64]",
    "horizon=h8",
    "trainer.batch_size=32",
]
"""The recipe of docs/benchmarks.md: half a CPU minute for 1000 updates."""


def shift_actions(root, *, from_episode, radians):
    """Add to the base joint's actions of the episodes from a number on."""
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        actions = np.stack(table["action"].to_pylist()).astype(np.float32)
        actions[table["episode_index"].to_numpy() >= from_episode, 0] += radians
        place, field = table.column_names.index("action"), table.schema.field("action")
        pq.write_table(table.set_column(place, field, pa.array(actions.tolist(), type=field.type)), path)


@pytest.mark.slow
def test_dropping_corrupted_episodes_helps_success_in_closed_loop(xp):
    """Half of the demonstrations have the base joint's actions off by 0.35 rad, as after a calibration that slipped."""
    xp("task=collect", "data.root=push", "env.tasks=[push_red]", VIEWS, "collect.episodes=120", "collect.noise=0.01",
       "collect.workers=1")  # fmt: skip
    shift_actions(xp.cwd / "push", from_episode=60, radians=0.35)
    (xp.cwd / "weights.json").write_text(json.dumps({str(episode): 0 for episode in range(60, 120)}))
    found = {}
    for name, weights in (("all", ""), ("weighed", ", episode_weights: weights.json")):
        xp("task=train", "data=mix", f"data.mix={{push: {{root: push{weights}}}}}", "data.val_fraction=0", *PUSHER,
           "trainer.steps=1000", f"hydra.run.dir={name}", timeout=3600)  # fmt: skip
        xp("task=eval", f"eval.checkpoint={name}", "env.tasks=[push_red]", "eval.episodes=40", "eval.controls=false",
           "eval.videos=0", "eval.workers=1", f"hydra.run.dir=eval_{name}", timeout=3600)  # fmt: skip
        metrics = json.loads((xp.cwd / f"eval_{name}" / "metrics.json").read_text())
        found[name] = metrics["policies"]["policy"]["all"]
    assert found["weighed"]["success_interval"]["low"] > found["all"]["success_interval"]["high"], found
