"""`xp task=status`: the state of every run, from any shell, whatever started the runs and whether it still runs."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from xp.errors import UserError
from xp.foreign.text import printable
from xp.runs.executors.controller_health import Warnings, warnings
from xp.runs.executors.status import COLUMNS, Row, counts, rows, with_executors
from xp.shell import command, near

STYLES = {"done": "green", "failed": "red", "running": "cyan", "interrupted": "yellow", "damaged": "red",
          "queued": "blue", "starting": "cyan", "blocked": "red", "cancelled": "yellow"}  # fmt: skip
_EVERY_S = 2.0
_ROWS = 40
"""Rows of a page where nothing else is asked for."""
_JOB, _WORDS = COLUMNS.index("job"), COLUMNS.index("")
_EXPERIMENTS = 20
"""Experiments whose counts stand on one page."""
_RANK = {"failed": 0, "damaged": 0, "blocked": 1, "interrupted": 2, "running": 3, "starting": 3, "queued": 4}
"""What comes first where not everything fits."""


def show(config: DictConfig) -> int:
    """Print one table per experiment, live until nothing waits or runs; exit code 0, whatever the runs' states are.

    More rows than `status.rows` come in pages, failures first.
    """
    folders = places(config.status.folder, config, "status.folder")
    console = Console()
    found = look(folders)
    if not found:
        console.print("No runs yet. Start one: xp task=collect ; or the main job: xp +experiment=multi_horizon -m")
        return 0
    live = console.is_terminal if config.status.live is None else config.status.live
    if live and any(row.open for row in found):
        found = _follow(lambda: look(folders), found, console)
    for part in page(found, config.status.page, config.status.rows or _ROWS, config.status.folder, console.width):
        console.print(part, soft_wrap=isinstance(part, Text))  # a line for pasting stays one line
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


def page(
    found: Sequence[Row], number: int, size: int, folder: str | None = None, width: int = 80
) -> list[Table | Text]:
    """What of many rows stands on page `number` (from 1); all of them, in their order, where they fit.

    Raises:
        UserError: there is no such page.
    """
    pages = max(1, math.ceil(len(found) / size))
    if not 1 <= number <= pages:
        raise UserError(f"status.page={number}: {len(found)} runs take {pages} pages of {size}. Give 1 to {pages}.")
    if pages == 1:
        return tables(found, found, width)
    ranked = sorted(range(len(found)), key=lambda index: _RANK.get(found[index].state, 5))
    shown = [found[index] for index in ranked[(number - 1) * size : number * size]]
    last = f"page {number} of {pages}, {len(shown)} of {len(found)} runs, failures first"
    if number < pages:
        where = {"status__folder": near(folder)} if folder is not None else {}
        last += f"; the next: {command('task=status', **where, status__page=number + 1)}"
    return [*tables(shown, found, width), Text(last)]


def tables(shown: Sequence[Row], found: Sequence[Row], width: int = 80) -> list[Table | Text]:
    """One table per experiment with the rows that are `shown`, under counts of all that were found."""
    everything: dict[str, list[Row]] = {}
    chosen: dict[str, list[Row]] = {}
    for rows_of, given in ((everything, found), (chosen, shown)):
        for row in given:
            rows_of.setdefault(row.experiment or _place(row), []).append(row)
    parts: list[Table | Text] = []
    for name in [*chosen, *(each for each in everything if each not in chosen)][:_EXPERIMENTS]:
        said = [_warnings(folder, states) for folder, states in _states(everything[name])]
        parts += [Text(line) for each in said for line in each.host_errors]
        parts.append(status_table(name, chosen.get(name, []), everything[name], width))
        parts += [Text(line) for each in said for line in each.todo]
    if len(everything) > _EXPERIMENTS:
        parts.append(Text(f"and {len(everything) - _EXPERIMENTS} more experiments; choose one: status.folder=FOLDER"))
    return parts


def _place(row: Row) -> str:
    """What to call the runs of a plain sweep, and those of no sweep at all."""
    return near(row.folder.parent) if row.stage else "single runs"


def _states(members: Sequence[Row]) -> list[tuple[Path, set[str]]]:
    """The states in each folder of jobs; of many folders the first."""
    found: dict[Path, set[str]] = {}
    for row in members:
        found.setdefault(row.folder.parent, set()).add(row.state)
    return list(found.items())[:_EXPERIMENTS]


def _warnings(folder: Path, states: set[str]) -> Warnings:
    """What the launcher has to say; a damaged launcher.json is said and stops nothing."""
    try:
        return warnings(folder, states)
    except UserError as error:
        return Warnings((str(error),))


def status_table(name: str, members: Sequence[Row], everybody: Sequence[Row], width: int = 80) -> Table | Text:
    """One experiment's rows as a table, a heading per stage: job, state, host, progress, values, time."""
    told = ", ".join(f"{number} {state}" for state, number in counts(everybody).items() if number)
    title = f"{printable(name)}: {told}"
    if not members:
        return Text(title, style="bold")
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    lines = [row.cells() for row in members]
    shown = _widths(lines, width)
    for index, size in shown.items():
        folded = index in (_JOB, _WORDS)
        table.add_column(COLUMNS[index], width=size, overflow="fold" if folded else "ellipsis", no_wrap=not folded)
    staged = len({row.stage for row in everybody}) > 1
    stage = ""
    for row, line in zip(members, lines):
        if staged and row.stage not in (stage, row.name):
            table.add_row(Text(line[0], style="bold"))
        stage = row.stage
        style = STYLES.get(row.state, "")
        indent = "  " if staged and row.stage != row.name else ""
        cells = [Text(line[index], style=style if line[index] == row.state else "") for index in shown]
        table.add_row(Text(indent) + cells[0], *cells[1:])
    return table


def _widths(lines: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """The width of each column that has something to show: state, progress and time keep their line at any width,
    hosts are cut, names of jobs and words share the rest and are folded.
    """
    longest = {index: max(len(line[index]) for line in lines) for index in range(1, len(COLUMNS))}
    shown = {index: size for index, size in longest.items() if size}
    fixed = {i: max(len(COLUMNS[i]), min(size, 11 if COLUMNS[i] == "host" else 24)) for i, size in shown.items()}
    rest = width - sum(fixed[i] for i in shown if COLUMNS[i] not in ("job", "")) - 3 * (len(shown) - 1)
    words = min(shown.get(_WORDS, 0), max(8, rest * 2 // 5))
    flexible = {_JOB: max(12, min(shown.get(_JOB, 0) + 2, rest - words)), _WORDS: words}
    return {index: flexible.get(index, fixed[index]) for index in shown}


def _follow(again: Callable[[], list[Row]], found: list[Row], console: Console) -> list[Row]:
    """Draw the tables anew until nothing is open; Ctrl-C leaves, the runs go on. Gives the last rows.

    While it is live only what does not fit is left out: finished runs first.
    """
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:
        try:
            while any(row.open for row in found):
                began = time.monotonic()
                live.update(Group(*tables(fitting(found, console.size.height - 8), found, console.width)), refresh=True)
                time.sleep(_EVERY_S)
                found = again()
                time.sleep(min(30.0, max(0.0, 3 * (time.monotonic() - began - _EVERY_S))))  # thousands: look less often
        except KeyboardInterrupt:
            pass
    return found


def fitting(found: list[Row], lines: int) -> list[Row]:
    """At most `lines` rows, in their order: those at work, then those that wait, then the rest."""
    rank = {"running": 0, "starting": 0, "failed": 1, "queued": 2}
    chosen = sorted(range(len(found)), key=lambda index: rank.get(found[index].state, 3))[: max(4, lines)]
    return [found[index] for index in sorted(chosen)]
