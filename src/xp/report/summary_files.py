"""summary.json and summary.csv of an experiment: the results of all its runs in one place."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from xp.atomic import write_json, write_text
from xp.json_types import JSON, JSONObject
from xp.report.estimates import BASELINES
from xp.report.json_values import section
from xp.report.read import Entry, Experiment
from xp.report.results import last_values
from xp.report.tables import Table

_LEADING = (
    "run", "training_horizon", "prediction_horizon", "num_trajectories", "num_windows", "num_steps",
    "mse", "mae", "nll",
)  # fmt: skip


def write_summaries(experiment: Experiment) -> None:
    """Write both files into the experiment's folder; a single run's own summary is left alone.

    summary.json is a list: the metrics of the prediction runs that have any, with the run's name in front; where an
    experiment predicts nothing, the metrics or summary of every run that has one. summary.csv has one row per entry.
    """
    if experiment.is_single_run:
        return
    entries = summary_entries(experiment)
    write_json(experiment.folder / "summary.json", entries)
    write_text(experiment.folder / "summary.csv", _csv([_row(entry) for entry in entries]))


def write_table(path: Path, table: Table) -> None:
    """Write a table of the report as CSV, whatever its length."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.heads)
    writer.writerows(table.rows)
    write_text(path, text.getvalue())


def summary_entries(experiment: Experiment) -> list[JSONObject]:
    """The entries of summary.json, in natural order of the runs' names."""
    predicted = [run for run in experiment.predictions if run.metrics]
    if predicted:
        return [{"run": run.name, **run.metrics} for run in predicted]
    return [{"run": run.name, "state": run.standing, **_result(run)} for run in experiment.runs if _result(run)]


def _result(run: Entry) -> JSONObject:
    own = ("config",)  # which stands in the run's own file
    summary = {key: value for key, value in section(run.summary).items() if key not in own}
    return {**last_values(run), **summary, **run.metrics}


def _row(entry: JSONObject) -> dict[str, JSON]:
    """The scalars of an entry; intervals as *_low and *_high, baselines as *_mse and *_mae."""
    row: dict[str, JSON] = {}
    for key, value in entry.items():
        if isinstance(value, (str, int, float, bool)) or value is None:
            row[key] = value
        elif key.endswith("_interval") and isinstance(value, Mapping):
            name = key.removesuffix("_interval")
            row |= {f"{name}_low": value.get("low"), f"{name}_high": value.get("high")}
    for key in ("mse", "mae"):
        row |= _some({f"dataset_units_{key}": section(entry, "dataset_units").get(key)})
        for name in BASELINES:
            row |= _some({f"{name}_{key}": section(entry, "baselines", name).get(key)})
    return row


def _some(values: dict[str, JSON]) -> dict[str, JSON]:
    return {key: value for key, value in values.items() if value is not None}


def _csv(rows: list[dict[str, JSON]]) -> str:
    present = dict.fromkeys(key for row in rows for key in row)
    columns = [key for key in _LEADING if key in present] + [key for key in present if key not in _LEADING]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
