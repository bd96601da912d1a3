"""What a report writes: a self-contained page, summaries for the next program, figures; the same twice."""

import csv
import hashlib
import io
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from report_experiments import write_multi_horizon, write_run
from rich.console import Console

from xp.report import table, terminal_table, write_report
from xp.report.charts import MOST_POINTS, all_charts
from xp.report.numbers import interval, number
from xp.report.summary_files import write_summaries
from xp.report.svg import log_ticks, nice_ticks
from xp.runs import RunFolder

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VOID = {"meta", "link", "br", "img", "input", "rect", "line", "circle", "polyline", "polygon"}


class Page(HTMLParser):
    """Collects addresses and checks that every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.open, self.faults = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "poster", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


@pytest.fixture(scope="module")
def reported(tmp_path_factory, cells):
    """An experiment with a failed and a missing cell, and its report."""
    folder = write_multi_horizon(tmp_path_factory.mktemp("reported") / "multi_horizon", cells)
    write_report(folder, now=NOW)
    return folder


@pytest.fixture(scope="module")
def page(reported):
    return (reported / "report.html").read_text()


def test_the_page_needs_no_network_and_stays_small(page):
    outside = [address for address in Page(page).addresses if re.match(r"(?i)(https?:)?//|javascript:", address)]
    assert outside == []
    assert not re.search(r"@import|url\(\s*['\"]?http|fetch\(|XMLHttpRequest|https?://", page)
    assert len(page.encode()) < 300_000


def test_every_link_leads_to_a_file_of_the_experiment(page, reported):
    links = [address for address in Page(page).addresses if not address.startswith(("#", "data:"))]
    assert "eval_h8/videos/episode%201.mp4" in links
    assert [link for link in links if not (reported / unquote(link)).is_file()] == []


def test_the_markup_is_well_formed_and_text_from_runs_is_escaped(page):
    parsed = Page(page)
    assert (parsed.faults, parsed.open) == ([], [])
    assert "<b>truncated</b>" not in page
    assert "&lt;b&gt;truncated&lt;/b&gt; &amp; lost" in page


def test_every_cell_shows_value_interval_and_n(page, cells):
    for (trained, predicted), metrics in cells.items():
        if (trained, predicted) in ((8, 4), (4, 8)):
            continue
        for key in ("mse", "mae", "nll"):
            ends = metrics[f"{key}_interval"]
            cell = f"<strong>{number(metrics[key])}</strong><span>{interval(ends['low'], ends['high'])}</span>"
            assert f"{cell}<span>n = 10</span>" in page
    assert page.count("<span>failed</span>") == page.count("<span>missing</span>") == 4


def test_the_page_tells_configuration_versions_commit_and_host(page):
    assert "<td>stack</td><td>18 / 25</td><td>72%</td>" in page
    for told in ("horizon.train", "4f2d9c1", "lab-7", "3.8.1", "2 min 05 s", "2026-03-01 00:00 UTC"):
        assert told in page
    assert "paths.root" not in page


def test_summary_json_lists_the_metrics_of_all_nine_cells(whole_experiment, cells, read):
    write_summaries(read(whole_experiment))
    entries = json.loads((whole_experiment / "summary.json").read_text())
    assert len(entries) == 9
    pairs = [(entry["training_horizon"], entry["prediction_horizon"]) for entry in entries]
    assert pairs == list(cells)
    assert {key: value for key, value in entries[5].items() if key != "run"} == cells[pairs[5]]


def test_summary_csv_has_a_row_per_cell_with_intervals_and_baselines(reported, cells):
    with (reported / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    row = next(row for row in rows if row["run"] == "train_h1_pred_h8")
    assert float(row["mae"]) == cells[1, 8]["mae"]
    assert float(row["mae_high"]) == cells[1, 8]["mae_interval"]["high"]
    assert float(row["hold_last_mse"]) == cells[1, 8]["baselines"]["hold_last"]["mse"]
    assert None not in row and None not in row.values()


def test_figures_are_written_and_not_blank(reported):
    from PIL import Image

    names = sorted(path.name for path in (reported / "figures").iterdir())
    assert names == [
        "calibration.png", "heatmap_mae.png", "heatmap_mae_dataset_units.png", "heatmap_mse.png", "heatmap_nll.png",
        "per_step_error.png", "training_curves.png", "validation_curves.png", "validation_l1.png",
    ]  # fmt: skip
    for name in names:
        pixels = np.asarray(Image.open(reported / "figures" / name).convert("L"))
        assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels)) > 20


def test_the_same_folder_gives_the_same_bytes_twice(reported):
    def digest():
        files = [*reported.glob("*.*"), *(reported / "figures").iterdir()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    first = digest()
    assert {"report.html", "summary.json", "summary.csv", "heatmap_mae.png"} <= set(first)
    write_report(reported, now=NOW)
    assert digest() == first


def test_a_single_run_gets_a_report_and_keeps_its_own_summary(whole_experiment):
    folder = whole_experiment / "horizon_4"
    before = RunFolder(folder).summary()
    assert "Training loss" in write_report(folder).read_text()
    assert RunFolder(folder).summary() == before
    assert not (folder / "summary.csv").exists()


def test_a_sweep_gets_a_table_of_runs_and_curves_without_a_heat_map(sweep):
    page = write_report(sweep, now=NOW).read_text()
    assert "predicted horizon" not in page
    assert "val_loss 0.0917 at step 400" in page
    assert len(json.loads((sweep / "summary.json").read_text())) == 8


def test_experiments_that_have_only_begun_still_get_a_page(tmp_path):
    write_run(tmp_path / "new" / "horizon_1", {"task": {"name": "train"}}, stage="finetune", state="pending")
    page = write_report(tmp_path / "new").read_text()
    assert "0 of 1 runs done" in page and "1 of 1 runs are not finished" in page


@pytest.mark.parametrize(
    "rows", ["", "1,0,0.5,1e-3,\n", "1,0,nan,1e-3,\n2,0,inf,1e-3,\n", "1,0,-1.0,1e-3,\n2,0,-1.0,1e-3,\n3,0"]
)
def test_short_flat_and_diverged_logs_still_give_a_page(tmp_path, rows):
    log = "step,epoch,loss,lr,timestamp\n" + rows
    write_run(tmp_path / "new" / "horizon_1", {"task": {"name": "train"}}, stage="finetune", training_log__csv=log)
    assert "horizon_1" in write_report(tmp_path / "new").read_text()


def test_the_terminal_table_shows_cells_baselines_n_and_what_is_missing(broken_experiment, cells):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(broken_experiment))
    text = console.export_text()
    lines = text.splitlines()
    row = next(index for index, line in enumerate(lines) if "trained on h1" in line)
    ends = cells[1, 8]["mae_interval"]
    assert number(cells[1, 8]["mae"]) in lines[row]
    assert interval(ends["low"], ends["high"]) in lines[row + 1]
    assert "hold-last" in text and "missing" in text and "failed" in text
    assert "n = 10 held-out episodes, 300 windows" in text


def test_the_terminal_table_of_a_sweep_fits_a_narrow_terminal(sweep):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(sweep))
    text = console.export_text()
    assert [value for value in ("1e-05", "0.0003", "0.1") if f"lr.peak={value} " not in text] == []


def test_extended_steps_are_drawn_apart_and_long_logs_are_averaged(whole_experiment, read):
    charts = {chart.key: chart for chart in all_charts(read(whole_experiment))}
    lines = {line.name: line for line in charts["per_step_error"].series}
    assert lines["trained on h4"].solid_until == 4
    assert {"zero action", "mean action", "hold-last"} < set(lines)
    training = charts["training_curves"].series[0]
    assert len(training.y) <= MOST_POINTS
    log = RunFolder(whole_experiment / "horizon_1").training_log()
    assert training.y[0] == pytest.approx(np.mean([row["loss"] for row in log[:3]]))
    assert charts["training_curves"].limits[1] < 5 < max(training.y)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2.3, 0.9), (1, 400), (0.2, 0.33), (1, 8), (-1e-7, 3e-7), (5, 5)])
def test_ticks_are_round_and_few(low, high):
    ticks = nice_ticks(low, high)
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)
    if high > low:
        assert len(ticks) >= 2
        digits = {f"{abs(b - a):.6e}".split("e")[0] for a, b in zip(ticks, ticks[1:])}
        assert digits <= {"1.000000", "2.000000", "2.500000", "5.000000"}


def test_log_ticks_are_powers_and_their_1_2_5_parts():
    assert log_ticks(0.9, 12) == pytest.approx([1, 2, 5, 10])
    assert log_ticks(0.5, 2000) == pytest.approx([1, 10, 100, 1000])
