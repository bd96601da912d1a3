"""Merged policies side by side: paired, with n and intervals, honest about what cannot be told apart."""

import json

import numpy as np
import pytest
from report_experiments import cell_metrics, validation_log, write_run

from xp.metrics import success_metrics
from xp.metrics.intervals import Sums, bootstrap
from xp.report import terminal_table, write_report
from xp.report.policies import ERROR, LOSS, RATE, policies_of
from xp.report.policy_plot import SIDE, WIDTH, Dot, Panel, axis, dot_plot, panels
from xp.report.policy_table import policy_findings, policy_table

EPISODES, STATES = 10, 40
SCALES = {"part_0": 1.0, "part_1": 1.15, "merge_average": 0.8, "merge_greedy": 0.99, "merge_ties": 60.0, "full": 0.85}
SUCCESSES = {"part_0": 20, "part_1": 16, "merge_average": 34, "merge_greedy": 21, "merge_ties": 0, "full": 30}


def prediction(scale):
    """Metrics of a policy whose errors are `scale` times those of a model, and its loss by episode."""
    metrics = json.loads(json.dumps(cell_metrics(4, 4)))
    rng = np.random.default_rng(int(scale * 1000))
    wobble = 1 + 0.02 * rng.normal(size=EPISODES)
    metrics["episodes"]["mae"] = (np.array(metrics["episodes"]["mae"]) * scale * wobble).tolist()
    for holder in (metrics["mae_interval"],):
        holder.update(low=holder["low"] * scale, high=holder["high"] * scale)
    metrics["mae"] *= scale
    losses = np.linspace(-3, -2, EPISODES) + scale + 0.01 * rng.normal(size=EPISODES)
    sums = Sums(episodes=np.arange(EPISODES), sums=losses * 20, counts=np.full(EPISODES, 20.0), windows=200)
    ends = bootstrap(sums, resamples=1000)
    episodes = {"index": list(range(EPISODES)), "num_steps": [20] * EPISODES, "loss": losses.tolist()}
    metrics["validation"] = {"loss": float(sums.mean()), "loss_interval": ends, "episodes": episodes}
    return metrics


def evaluation(count, idle):
    seeds = np.arange(STATES)
    policies = {"policy": {"all": success_metrics(seeds < count, seeds), "tasks": {}}}
    if idle:
        policies["noop"] = {"all": success_metrics(seeds < 0, seeds), "tasks": {}}
    return {"policies": policies}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments") / "model_arithmetic"
    inputs = [str(root / name) for name in ("part_0", "part_1")]
    for number, (name, scale) in enumerate(SCALES.items()):
        config = {"task": {"name": "merge" if name.startswith("merge") else "train"}, "seed": 0}
        files = {}
        if name.startswith("merge"):
            config["merge"] = {"checkpoints": inputs}
            files["summary__json"] = {"task": "merge", "weights": {"all": [0.25, 0.75]}}
        else:
            files["validation_log__csv"] = validation_log(number, end=-1.6 + number)
        write_run(root / name, config, stage=name.split("_")[0], **files)
        asked = {"task": {"name": "predict"}, "predict": {"checkpoint": str(root / name)}}
        write_run(root / f"predict_{name}", asked, stage="predict", metrics__json=prediction(scale))
        tried = {"task": {"name": "eval"}, "eval": {"checkpoint": str(root / name)}}
        metrics = evaluation(SUCCESSES[name], idle=name == "full")
        write_run(root / f"eval_{name}", tried, stage="eval", metrics__json=metrics)
    return root


@pytest.fixture
def policies(folder, read):
    return policies_of(read(folder))


def test_the_best_single_is_chosen_by_validation_loss_and_kinds_are_told(policies):
    assert [member.name for member in policies.members] == [
        "part_0", "part_1", "merge_average", "merge_greedy", "merge_ties", "full",
    ]  # fmt: skip
    assert [member.kind for member in policies.members] == ["single"] * 2 + ["merge"] * 3 + ["reference"]
    assert policies.best_single.name == "part_0"


def test_verdicts_follow_from_paired_intervals(policies):
    average, greedy, ties = policies.of("merge")
    for measure in (ERROR, LOSS, RATE):
        assert policies.verdict(average, measure) == "better"
        assert policies.verdict(ties, measure) == "worse"
    assert policies.verdict(greedy, RATE) == "not distinguishable"
    assert policies.verdict(policies.best_single, ERROR) == "–"
    found = policies.difference(average, RATE)
    assert found["value"] == pytest.approx((20 - 34) / STATES)
    assert found["n_episodes"] == STATES


def test_the_table_has_every_policy_with_n_interval_weights_and_baselines(policies):
    table = policy_table(policies)
    rows = {row[0]: row for row in table.rows}
    assert set(rows) == {
        "part_0 (best single)", "part_1", "merge_average", "merge_greedy", "merge_ties", "full",
        "zero action", "mean action", "hold-last", "doing nothing",
    }  # fmt: skip
    assert all(len(row) == len(table.heads) for row in table.rows)
    average = rows["merge_average"]
    assert average[4].startswith("34/40 = 85% [")
    assert average[5] == "10 episodes, 40 states"
    assert "· better" in average[6]
    assert average[8] == "0.25 0.75"
    assert rows["doing nothing"][4].startswith("0/40")


def test_findings_say_which_differ_and_which_cannot_be_told_apart(policies):
    told = [finding.text for finding in policy_findings(policies)]
    success = next(text for text in told if "best single (part_0), success" in text)
    assert "better: average" in success
    assert "worse: ties" in success
    assert "not distinguishable: greedy" in success
    assert "n = 40" in success
    assert any("full, which saw all the data, MAE" in text for text in told)


def test_a_far_outlier_is_an_arrow_at_the_edge_and_does_not_squash_the_rest(policies):
    error, success = panels(policies)
    worst = max(dot.value for dot in error.dots if dot.kind == "merge")
    others = [dot.value for dot in error.dots if dot.kind != "baseline" and dot.value != worst]
    assert error.high < worst
    assert max(others) < error.high
    assert (max(others) - min(others)) > 0.1 * (error.high - error.low)
    svg = dot_plot(error)
    assert svg.count("<polygon") == sum(dot.value > error.high for dot in error.dots) >= 1
    assert "→" in svg
    assert axis([dot for dot in success.dots if dot.kind == "single"])[1] <= 1.2


def test_what_lies_left_of_the_axis_is_an_arrow_at_the_left_edge():
    """A baseline that is better than every policy, and one that is worse: each with its value and its direction."""
    given = [("policy", 0.30), ("other", 0.32), ("hold-last", 0.02), ("zero action", 3.0)]
    dots = tuple(
        Dot(
            name=name,
            kind="single" if value < 1 and value > 0.1 else "baseline",
            value=value,
            low=value - 0.01,
            high=9.0,
        )
        for name, value in given
    )
    low, high = axis([Dot(name=d.name, kind=d.kind, value=d.value, low=d.low, high=0.34) for d in dots[:2]])
    panel = Panel(key="k", title="t", label="l", dots=dots, low=low, high=high)
    svg = dot_plot(panel)
    assert "hold-last · ← 0.02" in svg
    assert "zero action · 3 →" in svg or "zero action · 3.0" in svg
    assert svg.count("<circle") == 2
    left, right = (points.split('"')[0] for points in svg.split('<polygon class="dot base-mean" points="')[1:])
    tip = [float(point.split(",")[0]) for point in left.split()]
    assert tip[1] == min(tip) == SIDE
    assert max(float(point.split(",")[0]) for point in right.split()) == WIDTH - SIDE
    assert svg.count("<polyline") == 2  # the two intervals that go on beyond the axis


def test_the_page_and_the_terminal_show_them(folder):
    from rich.console import Console

    page = write_report(folder).read_text()
    assert "Merged policies" in page
    assert (folder / "figures/policies_mae.png").is_file()
    assert (folder / "figures/policies_success.png").is_file()
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(folder))
    text = console.export_text()
    assert "merge_average" in text
    assert "better" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_an_experiment_without_merges_has_no_such_section(whole_experiment, read):
    assert policies_of(read(whole_experiment)) is None
