"""Reports of hundreds and thousands of runs: bounded tables, charts and sentences, and a file with everything."""

import csv
import io
import json
import time

import pytest
from rich.console import Console

from xp.report import terminal_table, write_report
from xp.report.bounded import MOST_RUNS, best_and_worst, shortened, variants_table
from xp.report.charts import all_charts
from xp.report.read import read_experiment

RATES, DROPOUTS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3), (0.0, 0.1, 0.3, 0.5)


def sweep(root, count):
    for number in range(count):
        rate, dropout, seed = RATES[number % 5], DROPOUTS[number // 5 % 4], number // 20
        folder = root / f"lr.peak_{rate}-obs_dropout.rate_{dropout}-seed_{seed}"
        folder.mkdir(parents=True)
        failed = number % 97 == 96
        config = {"task": {"name": "train"}, "seed": seed, "lr": {"peak": rate}, "obs_dropout": {"rate": dropout}}
        record = {"state": "failed" if failed else "done", "stage": "sweep", "host": f"gpu-{number % 7}"}
        if failed:
            record |= {"error": {"type": "RuntimeError", "message": "out of memory"}, "traceback": "Traceback\n" * 40}
        else:
            loss = abs(RATES.index(rate) - 2) + dropout + 0.001 * (seed % 10)
            (folder / "training_log.csv").write_text(f"step,loss\n0,9\n1,{loss}\n")
            (folder / "validation_log.csv").write_text(f"step,val_loss\n0,9\n1,{loss}\n")
        (folder / "record.json").write_text(json.dumps(record))
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "job.json").write_text(json.dumps({"stage": "sweep", "config": config}))
    return root


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("x") / "sweep", 300)


def terminal(folder, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(terminal_table(folder))
    return console.file.getvalue().splitlines()


def test_the_terminal_shows_300_runs_by_arm_with_the_ends_and_where_the_rest_is(many):
    lines = terminal(many)
    assert len(lines) < 100 and all(len(line) <= 80 for line in lines)
    assert "300 runs by what they vary" in lines[0]
    text = " ".join(lines)
    assert text.index("lr.peak=0.0001") < text.index("lr.peak=3e-05") < text.index("lr.peak=1e-05")
    assert "failures, the best and the worst (all: runs.csv)" in text and "failed" in text


def test_the_page_of_300_runs_is_bounded_and_a_file_has_all_of_them(many):
    page = write_report(many).read_text()
    assert len(page) < 400_000 and "Variants" in page and "of 300 runs: failures, the best and the worst" in page
    with (many / "runs.csv").open() as handle:
        assert len(list(csv.DictReader(handle))) == 300
    assert page.count("<polyline") + page.count("<path") < 200
    assert "Of 297 runs the 12 shown are the best and the worst" in page


def test_a_report_takes_time_in_proportion_to_its_runs(many, tmp_path):
    """CPU time of twice the runs: below four times, whatever else the machine does."""
    larger = sweep(tmp_path / "sweep", 600)
    terminal(many)  # imports
    took = []
    for folder in (many, larger):
        began = time.process_time()
        terminal(folder)
        all_charts(read_experiment(folder))
        took.append(time.process_time() - began)
    assert took[1] < 4 * took[0]


def test_arms_are_the_values_beside_the_seed_and_their_rows_are_ranked(many):
    table = variants_table(read_experiment(many))
    assert table is not None and len(table.rows) == 20
    assert table.rows[0][1] == "lr.peak=0.0001, obs_dropout.rate=0" and table.rows[0][2:5] == ("15", "15", "val_loss")
    assert sum(int(row[2]) for row in table.rows) == 300
    cut = variants_table(read_experiment(many), most=8)
    assert cut is not None and len(cut.rows) == 9 and "12 variants between" in cut.rows[6][1]


def test_the_ends_hold_failures_the_best_and_the_worst(many):
    experiment = read_experiment(many)
    few = best_and_worst(experiment.runs, 12)
    assert len(few) == 12 and sum(run.standing == "failed" for run in few) == 3
    assert len(shortened(experiment).runs) == MOST_RUNS and shortened(experiment, 1000) is experiment


def test_a_table_of_some_evaluations_says_of_how_many(tmp_path):
    for number in range(MOST_RUNS + 10):
        folder = tmp_path / "exp" / f"eval_{number:02}"
        folder.mkdir(parents=True)
        told = {"success_rate": number / 100, "num_success": number, "num_episodes": 100}
        told["success_interval"] = {"low": 0.0, "high": 1.0}
        (folder / "metrics.json").write_text(json.dumps({"policies": {"policy": {"all": told, "tasks": {}}}}))
        (folder / "record.json").write_text(json.dumps({"state": "done", "stage": "success", "host": "a"}))
        (folder / "config.json").write_text(json.dumps({"task": {"name": "eval"}, "seed": 0}))
    page = write_report(tmp_path / "exp").read_text()
    assert f"{MOST_RUNS} of {MOST_RUNS + 10} evaluations: the best and the worst." in page


def test_five_runs_with_many_columns_fit_80_columns_without_squeezed_lines(tmp_path):
    for number, rate in enumerate(RATES):
        folder = tmp_path / "exp" / f"lr_{rate}"
        folder.mkdir(parents=True)
        config = {"task": {"name": "train"}, "seed": 0, "lr": {"peak": rate}}
        names = ["val_loss", "l1_error", "position_l1", "rotation_l1", "grad_norm", "loss"]
        (folder / "validation_log.csv").write_text(f"step,{','.join(names)}\n5,{','.join([f'0.{number}234'] * 6)}\n")
        (folder / "record.json").write_text(json.dumps({"state": "done", "stage": "s", "host": "a-host-with-a-name"}))
        (folder / "config.json").write_text(json.dumps(config))
    lines = terminal(tmp_path / "exp")
    assert all(len(line) <= 80 for line in lines) and len(lines) <= 5 + 7
    assert any("Not shown in 80 columns" in line for line in lines)
