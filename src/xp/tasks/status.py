"""`xp task=status`: how every run stands, read from the run folders, from any shell, whatever started the runs."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xp.errors import UserError
from xp.runs.attended import unattended
from xp.runs.status import COLUMNS, Row, counts, rows

STYLES = {"done": "green", "failed": "red", "running": "cyan", "interrupted": "yellow", "damaged": "red"}


def show(config: DictConfig) -> int:
    """Print one table per experiment; returns the exit code: 0, whatever the runs' states are."""
    found = [row for folder in _folders(config) for row in rows(folder)]
    console = Console()
    if not found:
        console.print("No runs yet. Start one: xp task=collect ; or the main job: xp +experiment=multi_horizon -m")
        return 0
    by_experiment: dict[str, list[Row]] = {}
    for row in found:
        by_experiment.setdefault(row.experiment or "single runs", []).append(row)
    for name, members in by_experiment.items():
        console.print(status_table(name, members))
        for folder in dict.fromkeys(row.folder.parent for row in members):
            line = unattended(folder, [row.state for row in members if row.folder.parent == folder])
            if line is not None:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def status_table(name: str, members: list[Row]) -> Table:
    """One experiment's runs as a table: stage, job, state, host, progress, values, time."""
    told = ", ".join(f"{number} {state}" for state, number in counts(members).items() if number)
    table = Table(title=f"{name}: {told}", title_justify="left", title_style="bold", expand=False)
    lines = [row.cells() for row in members]
    shown = [index for index in range(len(COLUMNS)) if any(line[index] for line in lines)]
    for index in shown:
        table.add_column(COLUMNS[index], overflow="fold", no_wrap=bool(COLUMNS[index]))
    for row, line in zip(members, lines):
        style = STYLES.get(row.state, "")
        table.add_row(*(Text(line[index], style=style if line[index] == row.state else "") for index in shown))
    return table


def _folders(config: DictConfig) -> list[Path]:
    if config.status.folder is not None:
        folder = Path(config.status.folder)
        if not folder.is_dir():
            raise UserError(f"status.folder={folder}: no such folder. Give an experiment, a sweep or a run folder.")
        return [folder]
    return [path for path in (Path(config.paths.multirun), Path(config.paths.outputs)) if path.is_dir()]
