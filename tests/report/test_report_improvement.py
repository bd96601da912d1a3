"""Loops of improvement side by side: gains over seeds from held-out states, rules in pairs, return by loop."""

import numpy as np
import pytest
from report_experiments import write_run
from scipy import stats

from xp.metrics.intervals import mean_interval
from xp.report import write_report
from xp.report.improvement import improvement_charts, improvement_findings, improvement_rules, improvement_tables
from xp.report.read import read_experiment

STARTS = (4.0, 5.0, 4.5)


def loop(root, rule, seed, gain, *, expert=20.0, summary=None, robot="minicheetah", name=None, **options):
    held_out = {"held_out_initial": STARTS[seed], "held_out_final": STARTS[seed] + gain}
    found = {
        "task": "loop", "loop": rule, "robot": robot, "final": "loop_02", "held_out": held_out, "expert_return": expert,
        "returns": {"expert": expert, "loop_00": STARTS[seed], "loop_01": STARTS[seed] + 1, "loop_02": 11.0 + gain},
    }  # fmt: skip
    config = {"task": {"name": "loop"}, "seed": seed, "env": {"name": "quadruped", "tasks": ["walk"]}, "loop": options}
    write_run(
        root / (name or f"{rule}_s{seed}"), config, stage="improve", summary__json=found if summary is None else summary
    )


@pytest.fixture
def experiment(tmp_path):
    root = tmp_path / "self_improve"
    for seed, gain in enumerate((6.0, 7.0, 8.0)):
        loop(root, "self_improve", seed, gain)
        loop(root, "as_published", seed, (0.5, -0.5, 0.1)[seed])
    return root


def test_the_interval_of_a_few_seeds_is_students():
    values = [1.0, 2.0, 4.0]
    low, high = mean_interval(values)
    wanted = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(wanted)
    assert mean_interval([1.0]) == (None, None)


def test_gains_are_over_seeds_from_held_out_states(experiment):
    rules = {rule.name: rule for rule in improvement_rules(read_experiment(experiment))}
    assert rules["self_improve"].gains == pytest.approx([6, 7, 8])
    assert rules["self_improve"].way == pytest.approx(21 / (60 - sum(STARTS)))
    gained, differences = improvement_tables(read_experiment(experiment))
    row = next(row for row in gained.rows if row[0] == "self_improve")
    assert row[1:3] == ("minicheetah", "3") and row[5].startswith("+7.00 [4.52, 9.48]")
    assert {row[-1] for row in differences.rows} == {"lower"} or {row[-1] for row in differences.rows} == {"higher"}


def test_findings_say_which_rule_gained_and_which_cannot_be_told(experiment):
    said = {finding.tone: finding.text for finding in improvement_findings(read_experiment(experiment))}
    assert "self_improve on minicheetah: +7.00 [4.52, 9.48]" in said["good"] and "45% of the way" in said["good"]
    assert "not to be told from no update" in said["neutral"]


def test_the_page_has_the_tables_and_the_curve(experiment):
    page = write_report(experiment).read_text()
    for text in ("Gain of each rule", "Differences between rules", "Return by loop: minicheetah"):
        assert text in page
    (chart,) = improvement_charts(read_experiment(experiment))
    assert [series.name for series in chart.series] == ["self_improve", "as_published", "expert"] or len(
        chart.series
    ) == 3
    assert (experiment / "figures/improvement_minicheetah.png").is_file()


def test_one_seed_has_no_interval_and_a_broken_summary_is_left_out(tmp_path):
    loop(tmp_path / "e", "once", 0, 1.0)
    loop(
        tmp_path / "e", "self_improve", 1, 1.0, summary={"loop": "self_improve", "held_out": {"held_out_initial": "x"}}
    )
    rules = improvement_rules(read_experiment(tmp_path / "e"))
    assert [rule.name for rule in rules] == ["once"]
    (table,) = improvement_tables(read_experiment(tmp_path / "e"))
    assert table.rows[0][5] == "+1.00"
    (finding,) = improvement_findings(read_experiment(tmp_path / "e"))
    assert "not to be told" in finding.text


def test_robots_and_settings_are_rules_of_their_own(tmp_path):
    for robot in ("minicheetah", "a1"):
        for share in (0.04, 0.2):
            loop(tmp_path / "e", "self_improve", 0, 1.0, robot=robot, name=f"{robot}_{share}", share=share)
    rules = improvement_rules(read_experiment(tmp_path / "e"))
    assert {(rule.name, rule.robot, len(rule.runs)) for rule in rules} == {
        (f"self_improve, loop.share={share}", robot, 1) for robot in ("minicheetah", "a1") for share in (0.04, 0.2)
    }
