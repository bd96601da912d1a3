"""The result of an experiment as a table in the terminal."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from xp.report.matrix import BASELINES, MAE, MSE, Matrix, build_matrix, has_matrix
from xp.report.numbers import interval, number
from xp.report.read import Experiment, read_experiment
from xp.report.tables import runs_table


def terminal_table(folder: str | Path) -> Table:
    """The horizon matrix with baselines, intervals and n where there is one, else a row per run."""
    experiment = read_experiment(folder)
    metric = next(
        (metric for metric in (MAE, MSE) if has_matrix(experiment) and build_matrix(experiment, metric)), None
    )
    matrix = build_matrix(experiment, metric) if metric else None
    return _matrix_table(matrix, experiment) if matrix else _runs(experiment)


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
        table.add_row(f"trained on h{trained}", *shown, end_section=trained == matrix.trained[-1])
    for name in matrix.baseline_names():
        estimates = [matrix.baselines.get((name, predicted)) for predicted in matrix.predicted]
        table.add_row(BASELINES[name], *(_cell(e.value, e.low, e.high) if e else "–" for e in estimates), style="dim")
    return table


def _cell(value: float, low: float | None, high: float | None, own: bool = False) -> str:
    """The value over its interval, so that the matrix fits a terminal of 80 columns; a model's own horizon in bold."""
    shown = f"[bold]{number(value)}[/bold]" if own else number(value)
    return f"{shown}\n[dim]{escape(interval(low, high))}[/dim]"


def _runs(experiment: Experiment) -> Table:
    """A row per run, without the columns that are empty or the same everywhere, or that repeat the run's name."""
    rows = runs_table(experiment)
    values = {index: {row[index] for row in rows.rows} for index in range(len(rows.heads))}
    kept = [0, 1, *(index for index in range(3, len(rows.heads)) if values[index] != {"–"} and len(values[index]) > 1)]
    if any(row[2] not in row[0] and row[2] != "–" for row in rows.rows):
        kept.insert(2, 2)
    table = Table(title=experiment.name)
    longest = min(40, max(len(row[0]) for row in rows.rows))
    for index in kept:
        justify = "right" if index in rows.numeric else "left"
        table.add_column(rows.heads[index], justify=justify, overflow="fold", min_width=None if index else longest)
    for row in rows.rows:
        table.add_row(*(escape(row[index]) for index in kept))
    return table
