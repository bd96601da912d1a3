"""`xp task=status`: how every run stands, from any shell, whatever started the runs and whether that is still there."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from xp.errors import UserError
from xp.runs.attended import remarks
from xp.runs.status import COLUMNS, Row, counts, rows, with_executors

STYLES = {"done": "green", "failed": "red", "running": "cyan", "interrupted": "yellow", "damaged": "red",
          "queued": "blue", "starting": "cyan", "blocked": "red", "cancelled": "yellow"}  # fmt: skip
_EVERY_S = 2.0


def show(config: DictConfig) -> int:
    """Print one table per experiment, live until nothing waits or runs; exit code 0, whatever the runs' states are."""
    folders = places(config.status.folder, config, "status.folder")
    console = Console()
    found = look(folders)
    if not found:
        console.print("No runs yet. Start one: xp task=collect ; or the main job: xp +experiment=multi_horizon -m")
        return 0
    live = console.is_terminal if config.status.live is None else config.status.live
    if live and any(row.open for row in found):
        _follow(lambda: look(folders), found, console)
    else:
        console.print(tables(found))
    return 0


def look(folders: list[Path]) -> list[Row]:
    """The rows of all runs below these folders, with what their executors say."""
    return with_executors([row for folder in folders for row in rows(folder)])


def places(folder: str | None, config: DictConfig, key: str) -> list[Path]:
    """The folder that a key names; without one, all places where runs lie.

    Raises:
        UserError: there is no such folder.
    """
    if folder is None:
        return [path for path in (Path(config.paths.multirun), Path(config.paths.outputs)) if path.is_dir()]
    if not Path(folder).is_dir():
        raise UserError(f"{key}={folder}: no such folder. Give an experiment, a sweep or a run folder.")
    return [Path(folder)]


def tables(found: list[Row]) -> Any:
    """One table per experiment."""
    by_experiment: dict[str, list[Row]] = {}
    for row in found:
        by_experiment.setdefault(row.experiment or "single runs", []).append(row)
    shown: list[Any] = []
    for name, members in by_experiment.items():
        folders = dict.fromkeys(row.folder.parent for row in members)
        said = [remarks(each, [row.state for row in members if row.folder.parent == each]) for each in folders]
        shown += [Text(line) for each in said for line in each.trouble]
        shown.append(status_table(name, members))
        shown += [Text(line) for each in said for line in each.todo]
    return Group(*shown)


def status_table(name: str, members: list[Row]) -> Table:
    """One experiment's runs as a table, a heading per stage: job, state, host, progress, values, time."""
    told = ", ".join(f"{number} {state}" for state, number in counts(members).items() if number)
    table = Table(
        title=f"{name}: {told}", title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    lines = [row.cells() for row in members]
    shown = [index for index in range(1, len(COLUMNS)) if any(line[index] for line in lines)]
    for index in shown:
        table.add_column(
            COLUMNS[index], overflow="fold", no_wrap=bool(COLUMNS[index]), min_width=None if COLUMNS[index] else 8
        )
    staged = any(row.stage not in ("", row.name) for row in members)
    stage = ""
    for row, line in zip(members, lines):
        if staged and row.stage not in (stage, row.name):
            table.add_row(Text(row.stage, style="bold"))
        stage = row.stage
        style = STYLES.get(row.state, "")
        indent = "  " if staged and row.stage != row.name else ""
        cells = [Text(line[index], style=style if line[index] == row.state else "") for index in shown]
        table.add_row(Text(indent) + cells[0], *cells[1:])
    return table


def _follow(again: Callable[[], list[Row]], found: list[Row], console: Console) -> None:
    """Draw the tables anew until nothing is open; Ctrl-C leaves, the runs go on. The last tables stay on the screen.

    While it is live only what does not fit is left out: finished runs first.
    """
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:
        try:
            while any(row.open for row in found):
                live.update(tables(fitting(found, console.size.height - 8)), refresh=True)
                time.sleep(_EVERY_S)
                found = again()
        except KeyboardInterrupt:
            pass
    console.print(tables(found))


def fitting(found: list[Row], lines: int) -> list[Row]:
    """At most `lines` rows, in their order: those at work, then those that wait, then the rest."""
    rank = {"running": 0, "starting": 0, "failed": 1, "queued": 2}
    chosen = sorted(range(len(found)), key=lambda index: rank.get(found[index].state, 3))[: max(4, lines)]
    return [found[index] for index in sorted(chosen)]
