"""Some runs beside each other, wherever they lie: a table, a figure, and what a fine-tuning has gained on its base."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from xp.atomic import write_json, write_text
from xp.errors import UserError, join_names
from xp.json_types import JSON, JSONObject
from xp.report.json_values import real, section
from xp.report.training_figures import draw_comparison
from xp.runs import RunFolder, load_run
from xp.runs.records.json_io import read_object

COLUMNS = ("val_loss", "l1_error", "direction_accuracy", "gripper_accuracy", "position_l1", "rotation_l1")
FIGURE, TABLE, RESULTS = "comparison.png", "comparison.csv", "evaluation_results.json"
_METRICS = COLUMNS[1:]


def compare_runs(paths: Sequence[str], output: Path, base: str | None = None) -> list[dict[str, JSON]]:
    """Write comparison.csv, and what the runs have the data for: comparison.png, evaluation_results.json.

    Args:
        paths: folders of runs: trainings, predictions, evaluations.
        output: the folder that is written into.
        base: the run of task=predict that asked the model before its fine-tuning; the predictions among `paths` are
            compared with it, in the form of the published evaluation of a base and its fine-tuning.

    Returns:
        The rows of the table.

    Raises:
        UserError: a folder that is no run's, names given twice, or no prediction to compare with the base.
    """
    runs = _named([load_run(path) for path in paths])
    rows = [{"run": name, **_row(run)} for name, run in runs.items()]
    write_text(output / TABLE, _csv(rows))
    trained = {name: run for name, run in runs.items() if run.validation_log()}
    if trained:
        draw_comparison(trained, output / FIGURE)
    if base is not None:
        write_json(output / RESULTS, _against_base(load_run(base), runs))
    return rows


def _named(runs: Sequence[RunFolder]) -> dict[str, RunFolder]:
    """Runs by their folders' names, or by their paths where two have the same."""
    names = [run.path.resolve().name for run in runs]
    named = dict(zip(names if len(set(names)) == len(names) else [str(run.path) for run in runs], runs))
    if len(named) < len(runs):
        raise UserError(
            f"report.runs=[{','.join(str(run.path) for run in runs)}]: each run is to be named once. Take the others "
            "out."
        )
    return named


def _row(run: RunFolder) -> dict[str, JSON]:
    config, summary = _config(run), section(run.summary())
    model, validation = section(config, "model"), run.validation_log()
    best = min(validation, key=lambda row: _or_inf(row.get("val_loss")), default={})
    found: dict[str, JSON] = {
        "task": str(section(config, "task").get("name")),
        "model": model.get("name"),
        "chunk_mode": model.get("chunk_mode"),
        "horizon": section(config, "horizon").get("train"),
        "seed": config.get("seed"),
        "steps": summary.get("total_steps"),
        "best_val_loss": real(best.get("val_loss")),
        "best_step": best.get("step"),
    }
    last = validation[-1] if validation else {}
    found |= {name: real(last.get(name)) for name in COLUMNS}
    metrics = read_object(run.path / "metrics.json", default={})
    for name, entry in section(metrics, "motion").items():
        found |= {name: real(section(entry).get("value")), f"{name}_majority": real(_majority(entry).get("value"))}
    for policy, entry in section(metrics, "policies").items():
        scores = section(entry, "all")
        ends = section(scores, "success_interval")
        found |= {
            f"success_{policy}": real(scores.get("success_rate")),
            f"episodes_{policy}": scores.get("num_episodes"),
        }
        found |= {f"success_{policy}_{end}": real(ends.get(end)) for end in ("low", "high")}
    return {name: value for name, value in found.items() if value is not None}


def _against_base(base: RunFolder, runs: Mapping[str, RunFolder]) -> JSON:
    """The published evaluation_results.json: one for one prediction, a list for several."""
    before = _motion(base)
    predicted = {name: run for name, run in runs.items() if _motion(run)}
    if not before or not predicted:
        lacking = base.path if not before else join_names(map(str, runs))
        raise UserError(
            f"report.base={base.path} is compared with runs of task=predict, by the metrics of motion in their "
            f"metrics.json; {lacking} has none. Ask both models first: xp task=predict predict.checkpoint=RUN"
        )
    found = [_pair(before, base, run) for run in predicted.values()]
    return found[0] if len(found) == 1 else found


def _pair(before: JSONObject, base: RunFolder, tuned: RunFolder) -> dict[str, JSON]:
    after, config = _motion(tuned), _config(tuned)
    one, two = _values(before, base), _values(after, tuned)
    horizon = section(config, "horizon").get("predict")
    return {
        "checkpoint": section(config, "predict").get("checkpoint"),
        "base_checkpoint": section(_config(base), "predict").get("checkpoint"),
        "chunk_size": horizon,
        "num_samples": two["num_samples"],
        "base_model": one,
        "finetuned_model": two,
        "improvement": {
            "l1_error_reduction_pct": _reduction(one["l1_error"], two["l1_error"]),
            **{f"{name}_change": _change(one[name], two[name]) for name in ("direction_accuracy", "gripper_accuracy")},
        },
    }


def _values(motion: JSONObject, run: RunFolder) -> dict[str, JSON]:
    found: dict[str, JSON] = {name: real(section(motion, name).get("value")) for name in _METRICS}
    return {**found, "num_samples": read_object(run.path / "metrics.json").get("num_windows")}


def _reduction(before: JSON, after: JSON) -> float | None:
    one, two = real(before), real(after)
    return None if not one or two is None else 100 * (one - two) / one


def _change(before: JSON, after: JSON) -> float | None:
    one, two = real(before), real(after)
    return None if one is None or two is None else two - one


def _motion(run: RunFolder) -> JSONObject:
    return section(read_object(run.path / "metrics.json", default={}), "motion")


def _majority(entry: JSON) -> JSONObject:
    return section(entry, "majority")


def _config(run: RunFolder) -> JSONObject:
    return read_object(run.path / "config.json", default={})


def _or_inf(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value == value else float("inf")


def _csv(rows: Sequence[Mapping[str, JSON]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
