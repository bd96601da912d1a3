"""The report's tables as plain rows of text, for HTML and terminal alike."""

from collections.abc import Iterable
from dataclasses import dataclass

from xp.errors import some
from xp.json_types import JSON
from xp.report.estimates import BASELINES, MAE, MSE, Estimate, format_estimate
from xp.report.findings import verdict
from xp.report.json_values import section
from xp.report.matrix import build_matrix
from xp.report.numbers import duration, number, percent
from xp.report.read import Entry, Experiment
from xp.report.results import best_of, columns_of, differing_keys, flat_value, last_values, successes, varied

VERDICTS = {"beats": "beaten", "overlaps": "not beaten", "loses": "better than the model", "unknown": "no verdict"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A title, column heads, rows of cells, and which columns hold numbers."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: frozenset[int] = frozenset()


def verdict_table(experiment: Experiment) -> Table | None:
    """Each model at its own horizon beside the baselines, MSE and MAE, with what the intervals say."""
    rows = []
    names: list[str] = []
    for metric in (MSE, MAE):
        matrix = build_matrix(experiment, metric)
        if matrix is None:
            continue
        names = matrix.baseline_names()
        for cell in matrix.cells.values():
            if cell.own and cell.estimate:
                rivals = [_rival(matrix.baselines.get((name, cell.predicted)), verdict(cell, name)) for name in names]
                rows.append((cell.trained.label, metric.key.upper(), format_estimate(cell.estimate), *rivals))
    if not rows:
        return None
    heads = ("model", "metric", "error", *(BASELINES[name] for name in names))
    note = (
        "A baseline counts as beaten when its 95% intervals of both MSE and MAE lie wholly above the model's "
        "(normalised units, the model's own horizon)."
    )
    return Table(title="Models and baselines at their own horizons", heads=heads, rows=tuple(rows), note=note)


def runs_table(experiment: Experiment) -> Table:
    """Every run: its state, what sets it apart, its results, time and place."""
    sets = experiment.stages()
    columns = columns_of(experiment.trainings)
    swept = {stage: differing_keys([run for run in runs if run.config])[:4] for stage, runs in sets.items()}
    heads = ("run", "state", "varied", "result", *(f"last {name}" for name in columns), "seed", "time", "host")
    rows = []
    for stage, runs in sets.items():
        for run in runs:
            values = last_values(run)
            shown = (number(values.get(name)) for name in columns)
            rows.append(
                (run.name, run.standing, varied(run, swept[stage]) or "–", _result(run), *shown)
                + (flat_value(run, "seed"), duration(run.seconds), str(run.record.get("host") or "–"))
            )
    numeric = frozenset(range(4, 4 + len(columns)))
    return Table(title="Runs", heads=heads, rows=tuple(rows), numeric=numeric)


def success_table(experiment: Experiment) -> Table | None:
    """Closed-loop evaluations: successes, rate and Wilson interval of each policy, over all tasks and by task."""
    rows = []
    for score in (score for run in experiment.runs for score in successes(run)):
        counts = (f"{score.successes} / {score.episodes}", percent(score.rate))
        ends = f"[{percent(score.low)}, {percent(score.high)}]"
        rows.append((score.run.name, score.policy, score.task, *counts, ends))
    heads = ("run", "policy", "task", "successes", "rate", "95% interval")
    note = "Wilson intervals. The list of initial states is in each run's metrics.json."
    return Table(title="Success by run and task", heads=heads, rows=tuple(rows), note=note) if rows else None


def provenance_table(experiment: Experiment) -> Table:
    """Package versions, commits, hosts and seeds; several values where runs differ."""
    rows: list[tuple[str, str]] = []
    for label, key in (("git commit", "git"), ("host", "host"), ("Python", "python")):
        rows.append((label, _all(run.record.get(key) for run in experiment.runs)))
    rows.append(("seed", _all(run.config.get("seed") for run in experiment.runs)))
    packages: dict[str, list[JSON]] = {}
    for run in experiment.runs:
        for name, version in section(run.record, "versions").items():
            packages.setdefault(name, []).append(version)
    rows += [(name, _all(found)) for name, found in packages.items()]
    known = [run.seconds for run in experiment.runs if run.seconds is not None]
    rows.append(("time of all runs", duration(sum(known)) if known else "–"))
    return Table(title="Provenance", heads=("what", "value"), rows=tuple(rows))


def _rival(estimate: Estimate | None, outcome: str) -> str:
    return "–" if estimate is None else f"{format_estimate(estimate)} · {VERDICTS[outcome]}"


def _result(run: Entry) -> str:
    """A prediction's error, an evaluation's success rate, a training's best validation."""
    if (estimate := MAE.of(run.metrics)) is not None:
        return f"MAE {format_estimate(estimate)}"
    for score in successes(run):
        return f"success {percent(score.rate)}"
    best = best_of(run)
    return "–" if best is None else f"{best[2]} {number(best[0])} at step {best[1]:,}"


def _all(values: Iterable[JSON]) -> str:
    shown = dict.fromkeys(str(value) for value in values if value not in (None, ""))
    return some(shown, 12) if shown else "–"
