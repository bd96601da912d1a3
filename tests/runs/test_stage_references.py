"""What a later stage takes from finished runs."""

import json

import pytest

from xp.errors import UserError
from xp.runs.jobs import stage_references
from xp.runs.records.record import Record


def finished(folder, seed, peak, **summary):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"seed": seed, "lr": {"peak": peak}}))
    (folder / "summary.json").write_text(json.dumps(summary))
    Record(folder / "record.json").update(state="done")
    return folder


def test_runs_that_agree_on_the_key_are_averaged(tmp_path):
    runs = [
        finished(tmp_path / "a", 0, 1e-4, loss=0.1),  # one lucky seed
        finished(tmp_path / "b", 1, 1e-4, loss=0.9),
        finished(tmp_path / "c", 0, 3e-5, loss=0.4),
        finished(tmp_path / "d", 1, 3e-5, loss=0.4),
    ]
    assert stage_references.best(runs, "loss", "lr.peak", stage="sweep") == 3e-5
    assert stage_references.best(runs, "loss", "lr.peak", stage="sweep", highest=True) == 1e-4
    assert stage_references.best(runs, "loss", "seed", stage="sweep") == 0


def test_equal_means_give_the_first_by_name(tmp_path):
    runs = [finished(tmp_path / name, 0, peak, loss=0.5) for name, peak in (("b", 1e-3), ("a", 1e-4))]
    assert stage_references.best(runs, "loss", "lr.peak", stage="sweep") == 1e-4


def test_a_key_that_the_stage_lacks_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no key 'lr.warmup'.*\$\{best:sweep,METRIC,KEY\}"):
        stage_references.best([finished(tmp_path / "a", 0, 1e-4, loss=0.5)], "loss", "lr.warmup", stage="sweep")
