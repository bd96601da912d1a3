"""A training that a needed one has done already is taken over; any difference that counts is trained."""

import json
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from xp import atomic
from xp.config import compose
from xp.runs.jobs.frozen import Job, Need, freeze
from xp.runs.records.record import Record
from xp.tasks._lib import reuse


@pytest.fixture
def finished(tmp_path):
    """A finished training with a large file and a log."""
    folder = tmp_path / "first"
    config = OmegaConf.to_container(compose(["lr.peak=3e-5", "data.root=somewhere"]), resolve=True)
    freeze(Job(folder=folder, config=config, identity="1" * 64, name="first"))
    Record(folder / "record.json").update(state="done")
    (folder / "final").mkdir()
    (folder / "final/weights").write_bytes(b"0" * reuse.LARGE)
    (folder / "training_log.csv").write_text("step,loss\n1,2\n")
    atomic.write_json(folder / "summary.json", {"best_val_loss": 1.0})
    return folder


def second(finished, *overrides):
    folder = finished.parent / "second"
    config = compose(["lr.peak=3e-5", "data.root=somewhere", *overrides])
    need = Need(folder=finished, stage="first", identity="1" * 64)
    plain = OmegaConf.to_container(config, resolve=True)
    freeze(Job(folder=folder, config=plain, identity="2" * 64, name="second", needs=(need,)))
    said = []
    return SimpleNamespace(folder=folder, config=config, log=said.append, said=said)


def test_the_result_of_the_same_training_is_taken_over(finished):
    run = second(finished, "trainer.log_every=7")  # no part of the result configuration
    assert reuse.reuse_identical_run(run)
    assert "first was trained with exactly this configuration" in run.said[0]
    assert (run.folder / "final/weights").samefile(finished / "final/weights")
    assert not (run.folder / "training_log.csv").samefile(finished / "training_log.csv")
    assert json.loads((run.folder / "summary.json").read_text()) == {"best_val_loss": 1.0}
    assert json.loads((run.folder / "job.json").read_text())["name"] == "second"


@pytest.mark.parametrize("override", ["lr.peak=1e-4", "seed=1", "trainer.steps=7"])
def test_another_training_is_not_taken_over(finished, override):
    run = second(finished, override)
    assert not reuse.reuse_identical_run(run)
    assert not (run.folder / "final").exists()
