"""Every sentence follows from the runs: change the runs and the sentence changes."""

import copy
import json

import pytest
from report_experiments import write_run

from xp.report.estimates import MAE, NLL
from xp.report.findings import findings
from xp.report.matrix import Trained, build_matrices, build_matrix
from xp.report.numbers import duration, enumeration, interval, number
from xp.report.tables import verdict_table


def sentences(folder, read):
    return [finding.text for finding in findings(read(folder))]


def rewrite(folder, name, change):
    path = folder / name / "metrics.json"
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))


def test_beating_a_baseline_is_said_with_both_intervals(whole_experiment, cells, read):
    text = next(text for text in sentences(whole_experiment, read) if "hold-last" in text)
    assert text.startswith("h1, h4 and h8 beat hold-last at their own horizons")
    own, rival = cells[4, 4], cells[4, 4]["baselines"]["hold_last"]
    for metrics in (own, rival):
        ends = metrics["mae_interval"]
        assert f"{number(metrics['mae'])} {interval(ends['low'], ends['high'])}" in text


def test_overlapping_intervals_are_not_called_a_win(whole_experiment, read):
    def overlap(metrics):
        metrics["baselines"]["hold_last"]["mse_interval"]["low"] = metrics["mse_interval"]["high"] * 0.99

    rewrite(whole_experiment, "train_h4_pred_h4", overlap)
    found = sentences(whole_experiment, read)
    assert any(text.startswith("h1 and h8 beat hold-last") for text in found)
    assert any(text.startswith("h4 is not shown to beat hold-last") and "overlap" in text for text in found)


def test_losing_to_a_baseline_is_said_plainly(whole_experiment, read):
    def lose(metrics):
        metrics["baselines"]["mean"] = copy.deepcopy(metrics["baselines"]["mean"])
        for key in ("mse", "mae"):
            metrics["baselines"]["mean"][key] = 0.0
            metrics["baselines"]["mean"][f"{key}_interval"].update(low=0.0, high=1e-6)

    rewrite(whole_experiment, "train_h8_pred_h8", lose)
    found = [finding for finding in findings(read(whole_experiment)) if "is worse than the mean action" in finding.text]
    assert [(finding.tone, finding.text.split()[0]) for finding in found] == [("bad", "h8")]


def test_seeds_share_a_cell_as_mean_and_range_and_win_only_together(whole_experiment, cells, read):
    second = copy.deepcopy(cells[4, 4])
    second["mae"] = 3 * cells[4, 4]["mae"]
    for key in ("mse", "mae"):
        second["baselines"]["hold_last"][f"{key}_interval"]["low"] = 0.0
    config = json.loads((whole_experiment / "train_h4_pred_h4/config.json").read_text()) | {"seed": 1}
    write_run(whole_experiment / "train_h4_pred_h4_seed1", config, stage="predict", metrics__json=second)
    estimate = build_matrix(read(whole_experiment), MAE).cells[Trained(4), 4].estimate
    assert estimate.value == pytest.approx(2 * cells[4, 4]["mae"])
    assert (estimate.low, estimate.high, estimate.runs) == (cells[4, 4]["mae"], second["mae"], 2)
    assert any(text.startswith("h4 is not shown to beat hold-last") for text in sentences(whole_experiment, read))


def test_models_of_one_horizon_that_differ_in_more_than_the_seed_are_rows_of_their_own(tmp_path, cells, read):
    worse = copy.deepcopy(cells[4, 4])
    for key in ("mae", "mse"):
        worse[key] += 10
        worse[f"{key}_interval"] = {end: value + 10 for end, value in worse[f"{key}_interval"].items()}
    for mode, metrics in (("parallel", cells[4, 4]), ("subsample", worse)):
        for seed in (0, 1):
            config = {"task": {"name": "predict"}, "horizon": {"train": 4, "predict": 4}, "seed": seed}
            config["model"] = {"chunk_mode": mode}
            write_run(tmp_path / f"{mode}_{seed}", config, stage="predict", metrics__json=metrics)
    matrix = build_matrix(read(tmp_path), MAE)
    assert [each.label for each in matrix.trained] == ["h4 (parallel)", "h4 (subsample)"]
    found = [matrix.cells[each, 4].estimate for each in matrix.trained]
    assert [each.value for each in found] == [cells[4, 4]["mae"], worse["mae"]] and {each.runs for each in found} == {2}
    told = sentences(tmp_path, read)
    assert any(text.startswith("h4 (parallel) beats the zero action") for text in told)
    assert any(text.startswith("h4 (subsample) is worse than hold-last") for text in told)
    assert build_matrices(read(tmp_path)) == []  # nobody was asked for another horizon than its own
    assert [row[0] for row in verdict_table(read(tmp_path)).rows] == ["h4 (parallel)", "h4 (subsample)"] * 2


def test_one_episode_gives_no_verdict_at_all(whole_experiment, read):
    def forget(metrics):
        for holder in (metrics, *metrics["baselines"].values()):
            for key in ("mse", "mae"):
                holder[f"{key}_interval"].update(low=None, high=None)

    for horizon in (1, 4, 8):
        rewrite(whole_experiment, f"train_h{horizon}_pred_h{horizon}", forget)
    assert not any("beat" in text for text in sentences(whole_experiment, read))


def test_the_best_model_at_the_longest_horizon_comes_with_a_paired_difference(whole_experiment, read):
    text = next(text for text in sentences(whole_experiment, read) if "Asked for 8 steps" in text)
    assert "the model trained on h8 has the lowest error" in text
    assert "over 10 episodes: the difference is clear" in text


def test_overconfident_regions_are_marked(whole_experiment, cells, read):
    found = next(finding for finding in findings(read(whole_experiment)) if "90% regions" in finding.text)
    assert f"{100 * cells[1, 1]['calibration']['coverage']['0.9']:.0f}% (h1)" in found.text
    assert found.tone == "bad"


def test_success_failures_and_missing_cells_are_told(broken_experiment, read):
    found = sentences(broken_experiment, read)
    assert "eval_h8 succeeds in 42 of 50 episodes: 84% [71%, 92%]; doing nothing: 2% [0%, 10%]." in found
    assert "1 of 13 runs have no result: train_h8_pred_h4 (failed: ValueError: <b>truncated</b> & lost)." in found
    assert "1 of 9 cells have no run: train h4, predict h8." in found


def test_a_sweep_names_its_best_run_and_what_is_unfinished(sweep, read):
    found = sentences(sweep, read)
    assert any(text.startswith("lr.peak=0.0003 has the lowest val_loss of the 8 runs") for text in found)
    assert "1 of 9 runs are not finished: lr.peak=0.1." in found


@pytest.mark.parametrize(
    "key", ["model.head", "action_space.type", "horizon.train", "data.root"], ids=lambda key: key.partition(".")[0]
)
def test_losses_of_other_things_are_not_compared(sweep, read, key):
    for place, config in enumerate(sorted(sweep.glob("*/config.json"))):
        written = json.loads(config.read_text())
        section, _, name = key.partition(".")
        written.setdefault(section, {})[name] = f"{place}"
        config.write_text(json.dumps(written))
    assert not [text for text in sentences(sweep, read) if "has the lowest" in text]


def test_the_matrix_marks_failed_and_missing_cells_and_shares_baselines(broken_experiment, cells, read):
    matrix = build_matrix(read(broken_experiment), MAE)
    assert matrix.predicted == (1, 4, 8) and matrix.trained == tuple(map(Trained, matrix.predicted))
    assert matrix.cells[Trained(8), 4].standing == "failed"
    assert matrix.cells[Trained(4), 8].standing == "missing"
    assert matrix.cells[Trained(1), 8].estimate.value == cells[1, 8]["mae"]
    assert matrix.cells[Trained(1), 8].estimate.episodes == 10
    assert matrix.baselines["hold_last", 8].value == cells[8, 8]["baselines"]["hold_last"]["mae"]


def test_the_likelihood_has_a_matrix_without_baselines_and_a_sweep_has_none(whole_experiment, sweep, read):
    matrices = {matrix.metric.key: matrix for matrix in build_matrices(read(whole_experiment))}
    assert list(matrices) == ["mae", "mse", "mae_dataset_units", "nll"]
    assert matrices[NLL.key].baselines == {}
    assert build_matrices(read(sweep)) == []


def test_shades_run_from_the_best_model_to_the_worst_honest_rival(whole_experiment, read):
    matrix = build_matrix(read(whole_experiment), MAE)
    shades = [matrix.shade(cell.estimate) for cell in matrix.cells.values()]
    assert min(shades) == 0.0
    assert matrix.shade(matrix.baselines["mean", 8]) > 0.95
    assert all(0 <= shade <= 1 for shade in [*shades, matrix.shade(matrix.baselines["zero", 1])])


def test_numbers_read_well():
    values = [0.12345, 0.09996, 12.345, 999.4, 1234.5, 2.5e7, 0.000123, -0.000123, -1.5, 0, None]
    assert [number(value) for value in values] == [
        "0.123", "0.100", "12.3", "999", "1,234", "2.50e7", "1.23e-4", "−1.23e-4", "−1.50", "0.00", "–",
    ]  # fmt: skip
    assert interval(0.1, 0.2) == "[0.100, 0.200]"
    assert interval(None, None) == "no interval"
    assert [duration(value) for value in (3, 185, 7800, None)] == ["3 s", "3 min 05 s", "2 h 10 min", "–"]
    assert enumeration(["a", "b", "c"]) == "a, b and c"
