"""Closed-loop success of an experiment's policies side by side: who is compared, in pairs, beside controls."""

import numpy as np
import pytest
from report_experiments import write_run
from rich.console import Console

from xp.metrics import success_metrics
from xp.report import terminal_table, write_report
from xp.report.findings import findings
from xp.report.read import read_experiment
from xp.report.scored import policy_sets, scored_policies
from xp.report.scored_tables import difference_tables, scored_table, success_findings, success_panel

STATES = np.arange(1_000_000, 1_000_060)


def scores(won):
    made = success_metrics(won, STATES)
    return {"all": made, "tasks": {"push": made}}


def evaluate(root, name, rate, *, seed=0, checkpoint=None, env=None, controls=True, stage="success", hidden=False):
    """A run that evaluated a policy with `rate` of its episodes solved, those of the first states."""
    won = np.arange(len(STATES)) < round(rate * len(STATES))
    policies = {"policy": scores(won)}
    if controls:
        policies |= {"noop": scores(won & False), "blind": scores(np.arange(len(STATES)) < 2)}
    config = {
        "task": {"name": "eval"},
        "seed": seed,
        "eval": {
            "checkpoint": str(root / (checkpoint or name.replace("success", "train"))),
            "hide_state": hidden,
        },
        "env": {"name": "policy", "fps": 10, **(env or {})},
    }
    write_run(root / name, config, stage=stage, metrics__json={"policies": policies})


@pytest.fixture
def benchmark(tmp_path):
    """Two seeds of three models: a good one, one a little worse, and one that does nothing."""
    root = tmp_path / "benchmark"
    for seed in (0, 1):
        for name, rate in (("octo", 0.9), ("act", 0.85 if seed else 0.6), ("diffusion", 0.0)):
            write_run(root / f"train_{name}-seed_{seed}", {"task": {"name": "train"}, "seed": seed}, stage=name)
            evaluate(root, f"success_{name}-seed_{seed}", rate, seed=seed)
    return root


def test_seeds_of_one_policy_are_taken_together(benchmark):
    scored = {policy.name: policy for policy in scored_policies(read_experiment(benchmark))}
    assert set(scored) == {"octo", "act", "diffusion"}
    act = scored["act"]
    assert [run.name for run in act.trainings] == ["train_act-seed_0", "train_act-seed_1"]
    rate = act.rate()
    assert rate and (rate.successes, rate.episodes) == (36 + 51, 120) and act.by_seed() == [0.6, 0.85]
    assert act.is_above_controls and not scored["diffusion"].is_above_controls


def test_differences_are_paired_by_seed_and_initial_state(benchmark):
    (found,) = policy_sets(read_experiment(benchmark))
    by_names = {(each.first.name, each.second.name): each.found for each in found.differences}
    assert len(by_names) == 3
    between = by_names["act", "diffusion"]
    assert between.value == pytest.approx((0.6 + 0.85) / 2) and (between.episodes, between.seeds) == (60, 2)
    assert between.level == pytest.approx(1 - 0.05 / 3) and between.verdict == "higher"


def test_the_page_and_the_terminal_show_success_controls_and_differences(benchmark):
    page = write_report(benchmark).read_text()
    for text in ("Success of each policy", "Differences in success: push", "108/120 = 90%", "doing nothing"):
        assert text in page
    assert (benchmark / "figures/success_policies.png").is_file()
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(benchmark))
    shown = console.export_text()
    assert "octo" in shown and "108/120" in shown and "pictures" in shown
    (sentence,) = success_findings(read_experiment(benchmark))
    assert "differences are clear" in sentence.text and sentence.tone == "good"


def test_a_policy_that_is_not_above_all_its_controls_is_marked(benchmark):
    said = {finding.text.split()[0]: finding.tone for finding in findings(read_experiment(benchmark))}
    assert said["octo"] == "good" and said["diffusion"] == "bad"


def test_one_policy_in_several_suites_is_compared_with_itself_in_the_first(tmp_path):
    root = tmp_path / "libero"
    for suite, rate in (("libero_object", 0.8), ("libero_object_swap", 0.1)):
        evaluate(root, f"octo_{suite}", rate, checkpoint="octo", env={"suite": suite}, controls=False)
    (found,) = policy_sets(read_experiment(root))
    (difference,) = found.differences
    assert found.title == "octo_libero_object elsewhere" and difference.found.value == pytest.approx(-0.7)
    assert difference.found.verdict == "lower"


def test_an_experiment_says_who_is_the_baseline(tmp_path):
    root = tmp_path / "dropout"
    asked = {"title": "Dropout", "stage": "obs_dropout", "baseline": {"obs_dropout": {"rate": 0.0}}}
    for rate, success in ((0.0, 0.9), (0.1, 0.2), (0.3, 0.9)):
        config = {"task": {"name": "train"}, "obs_dropout": {"rate": rate}, "experiment": {"comparisons": [asked]}}
        write_run(root / f"train_{rate}", config, stage="obs_dropout")
        evaluate(root, f"success_{rate}", success)
    (found,) = policy_sets(read_experiment(root))
    assert found.title == "Dropout" and found.baseline and found.baseline.name == "0.0"
    assert [each.found.verdict for each in found.differences] == ["lower", "not distinguishable"]


def test_policies_without_their_state_are_compared_with_the_baseline_without_its_state(tmp_path):
    root = tmp_path / "dropout"
    asked = {"title": "Dropout", "stage": "obs_dropout", "baseline": {"obs_dropout": {"rate": 0.0}}}
    for rate, seeing, blind in ((0.0, 0.9, 0.1), (0.3, 0.9, 0.8)):
        config = {"task": {"name": "train"}, "obs_dropout": {"rate": rate}, "experiment": {"comparisons": [asked]}}
        write_run(root / f"train_{rate}", config, stage="obs_dropout")
        evaluate(root, f"success_{rate}", seeing)
        evaluate(root, f"success_{rate}_without_state", blind, checkpoint=f"train_{rate}", controls=False, hidden=True)
    sets = {found.title: found for found in policy_sets(read_experiment(root))}
    assert set(sets) == {"Dropout", "Dropout, without the state", "0.0 without its state", "0.3 without its state"}
    assert [each.found.verdict for each in sets["Dropout"].differences] == ["not distinguishable"]
    (difference,) = sets["Dropout, without the state"].differences
    assert (difference.first.name, difference.second.name) == ("0.3_without_state", "0.0_without_state")
    assert difference.found.value == pytest.approx(0.7)
    (lost,) = sets["0.0 without its state"].differences
    assert lost.found.value == pytest.approx(-0.8)


def test_one_policy_alone_is_no_comparison(tmp_path):
    evaluate(tmp_path / "one", "success_octo", 0.5)
    experiment = read_experiment(tmp_path / "one")
    assert scored_table(experiment) is None and success_panel(experiment) is None
    assert difference_tables(experiment) == [] and list(success_findings(experiment)) == []
