"""Whole tasks by id: trained, asked, evaluated, uploaded, merged; and jobs that go on when the hub is gone."""

import json
import threading
import time
from pathlib import Path

import pytest
from tasks_setup import SMALL, Online, Xp

from xp.runs import RunFolder, State
from xp.runs.records.folder import find_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ACT = [
    "task=train", "model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32", "model.image_size=[32,32]",
    "horizon.train=6", "trainer.steps=4", "trainer.batch_size=4", "trainer.val_every=null", "trainer.accelerator=cpu",
]  # fmt: skip
OCTO = ["task=train", *SMALL, "trainer.steps=4", "trainer.val_every=null"]


@pytest.fixture(scope="module")
def arm(tmp_path_factory) -> Path:
    """Eight expert episodes of two tasks, 32 px, videos."""
    folder = tmp_path_factory.mktemp("arm")
    Xp(folder, folder / "cache")(
        "task=collect", "data.root=dataset", "env.tasks=[red_to_target,push_red]", "collect.episodes=4",
        "env.cameras={oblique: [32, 32], wrist: [32, 32]}", "collect.workers=1", "collect.use_videos=true",
    )  # fmt: skip
    return folder / "dataset"


@pytest.fixture
def xp(hub, arm, tmp_path) -> Online:
    """xp in an empty folder; org/arm is on the hub."""
    hub.add_folder("org/arm", arm)
    return Online(tmp_path, tmp_path / "cache")


def test_a_policy_of_lerobot_is_trained_asked_evaluated_and_merged_by_id(hub, token, xp, tmp_path):
    xp(*ACT, "data.repo_id=org/arm", "hydra.run.dir=run")
    xp("task=push", "push.run=run", "push.repo=me/act")
    xp("task=predict", "predict.checkpoint=hf://me/act", "predict.data_root=hf://org/arm", "hydra.run.dir=predicted")
    xp(
        "task=eval", "eval.checkpoint=hf://me/act", "env.tasks=[push_red]", "eval.episodes=1", "eval.workers=1",
        "env.max_steps=12", "eval.allow_blind=true", "eval.controls=false", "hydra.run.dir=evaluated",
    )  # fmt: skip
    xp(*ACT, "data.root=hf://org/arm", "pretrained_path=hf://me/act", "hydra.run.dir=again")
    merge = ["task=merge", "merge_method=average", "hydra.run.dir=merged"]
    xp(*merge, f"merge.checkpoints=[hf://me/act,{tmp_path / 'again'}]")
    for name in ("run", "predicted", "evaluated", "again", "merged"):
        record = RunFolder(tmp_path / name).record()
        assert record.state is State.DONE and record["hub"], name
    assert set(RunFolder(tmp_path / "merged").record()["hub"]) == {"merge.checkpoints[0]"}


def test_an_octo_is_trained_uploaded_trained_further_asked_evaluated_and_merged_by_id(hub, token, xp, tmp_path):
    xp(*OCTO, "data.root=hf://org/arm", "hydra.run.dir=run")
    xp("task=push", "push.run=run", "push.repo=me/octo")
    repo = hub.repos["model", "me/octo"]
    assert any(name.endswith("default/checkpoint") for name in repo.commits[repo.refs["main"]])
    xp("task=push", "push.run=run", "push.repo=me/octo")
    xp(*OCTO, "data.root=hf://org/arm", "pretrained_path=hf://me/octo", "hydra.run.dir=again")
    octo = "hf://me/octo@main@0"  # a final policy is written as one step, 0
    xp("task=predict", f"predict.checkpoint={octo}", "predict.data_root=hf://org/arm", "hydra.run.dir=p")
    assert json.loads((tmp_path / "p/metrics.json").read_text())["num_windows"] > 0
    xp(
        "task=eval", f"eval.checkpoint={octo}", "env.tasks=[push_red]", "eval.episodes=1", "eval.workers=1",
        "env.max_steps=12", "eval.allow_blind=true", "eval.controls=false", "hydra.run.dir=e",
    )  # fmt: skip
    xp("task=merge", "merge_method=average", f"merge.checkpoints=[{octo},{tmp_path / 'again'}]", "hydra.run.dir=m")
    for name in ("again", "p", "e", "m"):
        record = RunFolder(tmp_path / name).record()
        assert record.state is State.DONE and record["hub"], name


def test_a_sweep_goes_on_when_the_hub_is_gone_once_it_is_composed(hub, xp, tmp_path):
    def stop_once_frozen() -> None:
        while not list(tmp_path.glob("multirun/sweep/*/job.json")):
            time.sleep(0.01)
        hub.stop()

    watching = threading.Thread(target=stop_once_frozen, daemon=True)
    watching.start()
    xp(*ACT, "data.root=hf://org/arm", "seed=0,1", "-m")
    watching.join(10)
    runs = find_runs(tmp_path / "multirun/sweep")
    assert len(runs) == 2 and all(run.record().state is State.DONE for run in runs) and hub.stopped
    done = xp(*ACT, "data.root=hf://org/arm", "seed=0,1", "-m")
    assert "2 of 2 done, nothing to run" in done.stdout, "going on asks no hub"
    refused = xp(*ACT, "data.root=hf://org/arm@other", "hydra.run.dir=other", code=2)
    assert "cannot be reached" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
