"""The experiment model_arithmetic at a size that runs in minutes: one table of parts, merges and the whole."""

import csv
import io
import json

import pytest
from tasks_setup import SMALL, Xp

pytestmark = pytest.mark.slow

METHODS = ("average", "greedy", "ties")
LINE = [
    "+experiment=model_arithmetic", "-m", "debug=fast", *SMALL, f"merge_method={','.join(METHODS)}",
    "env.cameras={oblique: [32, 32], wrist: [32, 32]}", "collect.workers=1", "eval.videos=0", "env.max_steps=8",
    "hydra.launcher.n_jobs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    xp = Xp(tmp_path_factory.mktemp("arithmetic"), cache)
    xp.last = xp(*LINE, timeout=1500)
    return xp


def folder(xp):
    return xp.cwd / "multirun/model_arithmetic_fast"


def test_every_policy_stands_in_the_table_with_baselines(finished):
    names = {f"part_{part}" for part in range(4)} | {f"merge_{method}" for method in METHODS} | {"full"}
    text = finished.last.stdout
    assert all(name in text for name in names)
    assert "doing nothing" in text
    assert "hold-last" in text
    assert text.rstrip().splitlines()[-1] == f"Report: {folder(finished) / 'report.html'}"
    assert (folder(finished) / "figures/policies_success.png").is_file()


def test_all_are_measured_on_the_same_test_episodes_that_nobody_has_seen(finished):
    test = json.loads((folder(finished) / "split/test.json").read_text())["val"]
    everything = json.loads((folder(finished) / "split/all.json").read_text())
    assert not set(test) & {*everything["train"], *everything["val"]}
    dump = json.loads((folder(finished) / "dump/summary.json").read_text())
    assert set(dump["episodes"]) == set(everything["val"])
    for path in folder(finished).glob("predict_*/metrics.json"):
        metrics = json.loads(path.read_text())
        assert set(metrics["held_out_episodes"]) <= set(test)
        assert metrics["validation"]["episodes"]["index"]


def test_running_again_computes_nothing(finished):
    assert "nothing to run" in finished(*LINE, timeout=600).stdout


def test_the_summary_lists_every_prediction(finished):
    rows = list(csv.DictReader(io.StringIO((folder(finished) / "summary.csv").read_text())))
    assert len(rows) == 4 + 1 + len(METHODS)
    assert all(row["mae"] and row["hold_last_mae"] for row in rows)
