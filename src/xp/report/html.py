"""Writes report.html: one file that needs no network, from the tables, charts and findings."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from xp.atomic import write_text
from xp.report.bounded import MOST_RUNS, shortened, variants_table
from xp.report.charts import Chart, all_charts
from xp.report.continuity_charts import continuity_charts
from xp.report.continuity_tables import continuity_findings, continuity_tables
from xp.report.estimates import BASELINES, Estimate, with_n
from xp.report.figures import draw_figures, draw_panels
from xp.report.findings import findings
from xp.report.improvement import improvement_charts, improvement_findings, improvement_tables
from xp.report.matrix import Matrix, build_matrices
from xp.report.mixture_table import mixture_table
from xp.report.numbers import interval, number
from xp.report.policies import Policies, policies_of
from xp.report.policy_plot import Panel, dot_plot, panels
from xp.report.policy_plot import legend as dot_legend
from xp.report.policy_table import policy_findings, policy_table
from xp.report.read import Experiment, read_experiment
from xp.report.results import differences, successes
from xp.report.scored_tables import difference_tables, scored_table, success_findings, success_panel
from xp.report.summary_files import write_summaries, write_table
from xp.report.svg import legend, line_chart
from xp.report.tables import Table, provenance_table, runs_table, success_table, verdict_table
from xp.report.utilisation import utilisation

FIGURES, REPORT, RUNS = "figures", "report.html", "runs.csv"
MOST_BROKEN = 8
"""Runs without a result whose message and traceback the page shows."""


def write_report(experiment_folder: str | Path, *, now: datetime | None = None) -> Path:
    """Write report.html, figures/*.png, summary.json and summary.csv into the experiment's folder.

    The same run folders give the same files, but for the time of writing (`now`) in the page's foot.

    Args:
        experiment_folder: an experiment (multirun/NAME), any folder of runs, or one run.
        now: what to give as the time of writing; the clock's by default.

    Returns:
        The path of report.html.

    Raises:
        UserError: there is no such folder or no run in it.
    """
    experiment = read_experiment(experiment_folder)
    policies = policies_of(experiment)
    matrices, charts = (
        build_matrices(experiment),
        [
            *improvement_charts(experiment),
            *continuity_charts(experiment),
            *all_charts(experiment),
        ],
    )
    if policies:  # these would show policies that were merged or trained on parts as seeds of one horizon
        charts = [chart for chart in charts if chart.key not in ("per_step_error", "calibration")]
    write_summaries(experiment)
    if len(experiment.runs) > MOST_RUNS:
        write_table(experiment.folder / RUNS, runs_table(experiment))
    figures = draw_figures(experiment.folder / FIGURES, matrices, charts)
    figures += draw_panels(experiment.folder / FIGURES, _panels(experiment, policies))
    page = render(experiment, policies, matrices, charts, figures, now or datetime.now(UTC))
    path = experiment.folder / REPORT
    write_text(path, page)
    return path


def render(
    experiment: Experiment,
    policies: Policies | None,
    matrices: list[Matrix],
    charts: list[Chart],
    figures: list[Path],
    now: datetime,
) -> str:
    """The page as text."""
    done = sum(run.standing == "done" for run in experiment.runs)
    short = shortened(experiment)
    dots = [{"panel": p, "svg": dot_plot(p), "legend": dot_legend(p)} for p in _panels(experiment, policies)]
    return _template().render(
        experiment=experiment,
        subtitle=f"{done} of {len(experiment.runs)} runs done",
        findings=[
            *(policy_findings(policies) if policies else ()),
            *improvement_findings(experiment),
            *continuity_findings(experiment),
            *(() if policies else success_findings(experiment)),
            *findings(experiment),
        ],
        policies=policy_table(policies) if policies else None,
        dots=dots,
        heatmaps=[_heatmap(matrix) for matrix in matrices],
        verdicts=None if policies else verdict_table(experiment),
        scored=None if policies else scored_table(experiment),
        differing=[] if policies else difference_tables(experiment),
        success=_success(experiment, short),
        improvement=improvement_tables(experiment),
        continuity=continuity_tables(experiment),
        pictures=[(run, run.figures) for run in short.runs if run.metrics.get("replay") and run.figures],
        charts=[{"chart": chart, "svg": line_chart(chart), "legend": legend(chart)} for chart in charts],
        variants=variants_table(experiment),
        runs=_runs(experiment, short),
        mixtures=mixture_table(short),
        utilisation=utilisation(short),
        differences=differences(short),
        provenance=provenance_table(experiment),
        broken=experiment.broken[:MOST_BROKEN],
        more_broken=max(0, len(experiment.broken) - MOST_BROKEN),
        videos=[(run, run.videos) for run in short.runs if run.videos],
        figures=[path.relative_to(experiment.folder).as_posix() for path in figures],
        written=now.strftime("%Y-%m-%d %H:%M UTC"),
    )


def _panels(experiment: Experiment, policies: Policies | None) -> list[Panel]:
    """Merged policies side by side, or those of closed-loop evaluations."""
    if policies:
        return panels(policies)
    scored = success_panel(experiment)
    return [scored] if scored else []


def _runs(experiment: Experiment, short: Experiment) -> Table:
    """The table of runs; of many the ends, with the name of the file that has all of them."""
    table = runs_table(short)
    if len(short.runs) == len(experiment.runs):
        return table
    note = f"{len(short.runs)} of {len(experiment.runs)} runs: failures, the best and the worst. All are in {RUNS}."
    return replace(table, note=note)


def _success(experiment: Experiment, short: Experiment) -> Table | None:
    """Success by run and task; of many runs the ends, which is said."""
    table = success_table(short)
    scored = [sum(bool(successes(run)) for run in each.runs) for each in (short, experiment)]
    if table is None or scored[0] == scored[1]:
        return table
    return replace(table, note=f"{scored[0]} of {scored[1]} evaluations: the best and the worst. {table.note}")


def _heatmap(matrix: Matrix) -> dict[str, Any]:
    """The matrix as rows of cells ready to print."""
    rows = []
    for trained in matrix.trained:
        cells = [matrix.cells[trained, predicted] for predicted in matrix.predicted]
        rows.append(
            {
                "head": f"trained on {trained.label}",
                "cells": [_box(matrix, c.estimate, c.standing, c.own) for c in cells],
            }
        )
    baselines = []
    for name in matrix.baseline_names():
        estimates = [matrix.baselines.get((name, predicted)) for predicted in matrix.predicted]
        baselines.append({"head": BASELINES[name], "cells": [_box(matrix, e, "–", False) for e in estimates]})
    return {"metric": matrix.metric, "predicted": matrix.predicted, "rows": rows, "baselines": baselines}


def _box(matrix: Matrix, estimate: Any, standing: str, own: bool) -> dict[str, Any]:
    if estimate is None:
        return {"missing": standing, "own": own}
    return {
        "value": number(estimate.value),
        "interval": interval(estimate.low, estimate.high),
        "count": _count(estimate),
        "title": with_n(estimate),
        "shade": math.floor(100 * matrix.shade(estimate)),
        "own": own,
    }


def _count(estimate: Estimate) -> str:
    """The number n as a cell shows it; where runs (seeds) share the cell, that the brackets hold their range."""
    if estimate.runs > 1:
        return f"range of {estimate.runs} runs"
    return f"n = {estimate.episodes}" if estimate.episodes else ""


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("xp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
