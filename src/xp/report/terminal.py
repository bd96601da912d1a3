"""The result of an experiment as a table in the terminal."""

from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from xp.foreign.text import printable
from xp.report.bounded import shortened, variants_table
from xp.report.continuity_tables import continuity_terminal
from xp.report.estimates import BASELINES, MAE, MSE, Estimate, format_estimate
from xp.report.findings import verdict
from xp.report.matrix import Matrix, build_matrix, has_matrix
from xp.report.numbers import interval, number, percent
from xp.report.policies import ERROR, Policies, policies_of
from xp.report.policy_table import weights_text
from xp.report.read import Experiment, read_experiment
from xp.report.results import SuccessRate
from xp.report.scored_tables import success_terminal
from xp.report.tables import runs_table

_WIDTH = 80
_CELL = 30
"""Characters of a cell that is no name."""
_VARIANTS, _SHOWN_RUNS = 20, 12


def terminal_table(folder: str | Path) -> Table | Text | Group:
    """Comparisons of replays, policies of an experiment that merges, the horizon matrix, or else a row per run.

    Policies that were evaluated in closed loop come last: their success.
    """
    experiment = read_experiment(folder)
    policies = policies_of(experiment)
    if policies:
        return _policies_table(policies, experiment)
    shown = [*_errors(experiment)]
    scored = success_terminal(experiment)
    if scored:
        shown.append(scored)
    elif not shown:
        return _runs(experiment)
    return Group(*shown) if len(shown) > 1 else shown[0]


def _errors(experiment: Experiment) -> list[Table | Text]:
    """Comparisons of replays, the horizon matrix, or several models at their own horizons; nothing without any."""
    replays = continuity_terminal(experiment)
    if replays:
        return list(replays)
    matrix = next((found for metric in (MAE, MSE) if (found := build_matrix(experiment, metric))), None)
    if matrix is None:
        return []
    if has_matrix(experiment):
        return [_matrix_table(matrix, experiment)]
    return [_own_table(matrix, experiment)] if len(matrix.trained) > 1 else []


def _policies_table(policies: Policies, experiment: Experiment) -> Table:
    """A row per policy: value over interval, and on the third line a merge's weights; fits 80 columns."""
    best = policies.best_single
    known = next((member for member in policies.members if member.error), None)
    size = f"n = {known.error.episodes} test episodes" if known and known.error else ""
    states = next((m.success.episodes for m in policies.members if m.success), None)
    size += f", {states} initial states" if states else ""
    caption = f"{size}. 95% intervals. " if size else "95% intervals. "
    caption += f"Against {best.name}, the best single by validation loss, in pairs." if best else ""
    table = Table(title=f"{experiment.name}: merged policies", caption=caption)
    for head in ("policy", "loss", "MAE", "success", "MAE vs best"):
        table.add_column(head, justify="left" if head == "policy" else "right", overflow="fold")
    for member in policies.members:
        weights = weights_text(member)
        name = escape(member.name) + (f"\n[dim]{weights}[/dim]" if weights != "–" else "")
        verdict = policies.verdict(member, ERROR).replace("not distinguishable", "no clear difference")
        cells = (_estimate(member.loss), _estimate(member.error), _rate(member.success))
        table.add_row(name, *cells, verdict, end_section=member is policies.members[-1])
    for key, estimate in policies.baselines.items():
        table.add_row(BASELINES[key], "–", _estimate(estimate), "–", "–", style="dim")
    if policies.idle:
        table.add_row("doing nothing", "–", "–", _rate(policies.idle), "–", style="dim")
    return table


def _estimate(estimate: Estimate | None) -> str:
    return _cell(estimate.value, estimate.low, estimate.high) if estimate else "–"


def _rate(score: SuccessRate | None) -> str:
    if score is None:
        return "–"
    ends = f"[{percent(score.low)}, {percent(score.high)}]"
    return f"{score.successes}/{score.episodes}\n[dim]{escape(ends)}[/dim]"


def _matrix_table(matrix: Matrix, experiment: Experiment) -> Table:
    counts = {(cell.estimate.episodes, cell.estimate.windows) for cell in matrix.cells.values() if cell.estimate}
    caption = "95% intervals over held-out episodes, padding left out."
    if len(counts) == 1:
        episodes, windows = counts.pop()
        caption = f"n = {episodes} held-out episodes, {windows} windows. " + caption
    title = f"{experiment.name}: {matrix.metric.label.lower()} ({matrix.metric.unit})"
    table = Table(title=title, caption=caption)
    table.add_column("", no_wrap=True)
    for predicted in matrix.predicted:
        table.add_column(f"predict {predicted}", justify="right", no_wrap=True)
    for trained in matrix.trained:
        cells = [matrix.cells[trained, predicted] for predicted in matrix.predicted]
        shown = [
            _cell(cell.estimate.value, cell.estimate.low, cell.estimate.high, cell.own)
            if cell.estimate
            else f"[red]{cell.standing}[/red]"
            for cell in cells
        ]
        table.add_row(f"trained on {trained.label}", *shown, end_section=trained == matrix.trained[-1])
    for name in matrix.baseline_names():
        estimates = [matrix.baselines.get((name, predicted)) for predicted in matrix.predicted]
        table.add_row(BASELINES[name], *(_cell(e.value, e.low, e.high) if e else "–" for e in estimates), style="dim")
    return table


def _own_table(matrix: Matrix, experiment: Experiment) -> Table:
    """A row per model at its own horizon with the baselines that it beats; below, the baselines of each horizon."""
    episodes = {cell.estimate.episodes for cell in matrix.cells.values() if cell.estimate}
    told = f"n = {episodes.pop()} held-out episodes. " if len(episodes) == 1 else ""
    title = f"{experiment.name}: {matrix.metric.label.lower()} ({matrix.metric.unit})"
    table = Table(title=title, caption=f"{told}95% intervals, padding left out. Beaten: MSE and MAE, by intervals.")
    for head in ("trained on", "error", "beats"):
        table.add_column(head, overflow="fold")
    own = [cell for cell in matrix.cells.values() if cell.own and cell.estimate]
    for cell in own:
        beaten = [BASELINES[name] for name in matrix.baseline_names() if verdict(cell, name) == "beats"]
        shown = format_estimate(cell.estimate)
        table.add_row(escape(cell.trained.label), escape(shown), ", ".join(beaten) or "–", end_section=cell is own[-1])
    for (name, predicted), estimate in matrix.baselines.items():
        table.add_row(f"{BASELINES[name]}, h{predicted}", escape(format_estimate(estimate)), "", style="dim")
    return table


def _cell(value: float, low: float | None, high: float | None, own: bool = False) -> str:
    """The value over its interval, so that the matrix fits a terminal of 80 columns; a model's own horizon in bold."""
    shown = f"[bold]{number(value)}[/bold]" if own else number(value)
    return f"{shown}\n[dim]{escape(interval(low, high))}[/dim]"


def _runs(experiment: Experiment, width: int = _WIDTH) -> Table | Group:
    """A row per run, with as many columns as a line takes; of many runs the variants and a few runs of each end."""
    variants = variants_table(experiment, _VARIANTS)
    if variants is None:
        return _run_table(experiment, width)
    table = Table(title=f"{experiment.name}: {len(experiment.runs)} runs by what they vary", caption=variants.note)
    kept = [i for i in range(len(variants.heads)) if i or len({row[0] for row in variants.rows}) > 1]
    for index in kept:
        justify = "right" if index in variants.numeric else "left"
        table.add_column(
            variants.heads[index], justify=justify, overflow="fold", no_wrap=variants.heads[index] != "variant"
        )
    for row in variants.rows:
        table.add_row(*(escape(row[index]) for index in kept))
    few = _run_table(shortened(experiment, _SHOWN_RUNS), width)
    few.title = f"{_SHOWN_RUNS} of {len(experiment.runs)} runs: failures, the best and the worst (all: runs.csv)"
    return Group(table, few)


def _run_table(experiment: Experiment, width: int) -> Table:
    """A row per run; columns that are empty or the same everywhere are left out, then those that do not fit."""
    rows = runs_table(experiment)
    values = {index: {row[index] for row in rows.rows} for index in range(len(rows.heads))}
    telling = [i for i in range(3, len(rows.heads)) if values[i] != {"–"} and len(values[i]) > 1]
    if any(row[2] not in row[0] and row[2] != "–" for row in rows.rows):
        telling.insert(0, 2)
    sizes = {i: max(len(rows.heads[i]), *map(len, values[i])) for i in values}
    longest = min(34, sizes[0])
    kept, room = [0, 1], width - longest - sizes[1] - 8
    for index in telling:
        size = min(sizes[index], _CELL)
        if room >= size + 3:
            kept.append(index)
            room -= size + 3
    left_out = [rows.heads[index] for index in telling if index not in kept]
    caption = f"Not shown in {width} columns: {', '.join(left_out)}." if left_out else None
    table = Table(title=experiment.name, caption=caption)
    for index in sorted(kept):
        justify = "right" if index in rows.numeric else "left"
        size = longest if index == 0 else min(sizes[index], _CELL)
        table.add_column(rows.heads[index], justify=justify, overflow="fold", min_width=size)
    for row in rows.rows:
        table.add_row(*(escape(printable(row[index])) for index in sorted(kept)))
    return table
