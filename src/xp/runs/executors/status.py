"""How the runs below a folder stand, from their files alone: any shell, any launcher, controller or not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from xp.errors import UserError
from xp.foreign.json_file import Fields
from xp.foreign.text import printable
from xp.json_types import JSON
from xp.runs.execution.progress import clock_text, seconds_left, short
from xp.runs.executors.protocol import JobState
from xp.runs.executors.submitted import ask, remarks_on
from xp.runs.records.folder import PROGRESS, RECORD, RunFolder, find_runs


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run in a table of runs."""

    folder: Path
    experiment: str
    stage: str
    name: str
    task: str
    state: str
    """A state of the record, or `interrupted`, `damaged`; `queued`, `starting`, `blocked` in an executor's hands."""
    handle: str = ""
    remark: str = ""
    """What the executor says of it: why it waits, why it ended."""
    host: str = ""
    description: str = ""
    step: int | None = None
    total: int | None = None
    unit: str = "step"
    rate: float = 0.0
    shown: dict[str, JSON] = field(default_factory=dict[str, JSON])
    seconds: float | None = None
    error: str = ""
    created: str = ""
    """When it was frozen, as its record says."""

    @property
    def open(self) -> bool:
        """Whether the run waits for or has a machine."""
        return self.state in ("running", "queued", "starting")

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of what a running job is doing now."""
        if self.state != "running" or self.step is None or self.total is None:
            return None
        return seconds_left(self.step, self.total, self.rate)

    def cells(self) -> list[str]:
        """The row as text: stage, job, state, host, progress, values, time (left, or taken)."""
        running = self.state == "running"
        progress = f"{self.step}/{self.total} {self.unit}s" if self.step is not None and self.state != "done" else ""
        values = " ".join(f"{key} {short(value)}" for key, value in self.shown.items())
        left = self.left_s
        if running and left is not None:
            clock = f"{clock_text(left)} left"
        else:
            clock = clock_text(self.seconds) if self.seconds is not None else ""
        words = self.error or self.remark or (f"{self.description} {values}".strip() if running else values)
        told = (self.stage or "-", self.name, self.state, self.host, progress, words, clock)
        return [printable(cell, _LONGEST) for cell in told]


_LONGEST = 160
"""Characters of a cell."""
COLUMNS = ("stage", "job", "state", "host", "progress", "", "time")


def rows(root: str | Path) -> list[Row]:
    """One row per run at or below `root`, experiments together, stages in the order in which they were frozen."""
    found = [row_of(run) for run in find_runs(root)]
    return sorted(found, key=lambda row: (str(row.folder.parent), row.created, row.name))


def with_executors(table: Sequence[Row]) -> list[Row]:
    """The rows with what executors say of jobs in their hands: queued, starting, ended without a word of their own."""
    seen = ask(row.folder for row in table if row.handle)
    waiting = [row.folder for row in table if row.folder in seen and seen[row.folder] is not JobState.RUNNING]
    remarks = remarks_on(waiting)
    return [
        _as_seen(row, seen[row.folder], remarks.get(row.folder, "")) if row.folder in seen else row for row in table
    ]


def _as_seen(row: Row, seen: JobState, remark: str) -> Row:
    if seen is JobState.RUNNING:
        return row if row.state == "running" else replace(row, state="starting")
    if seen is JobState.WAITING:
        return replace(row, state="queued", host="", remark=remark)
    if seen is JobState.BLOCKED:
        return replace(row, state="blocked", remark="a job it needs failed")
    if seen is JobState.DONE:
        return row  # the record is being written
    if seen is JobState.INTERRUPTED and (now := row_of(RunFolder(row.folder))).state == "cancelled":
        return replace(now, remark=remark)  # written down when the executor was asked
    return replace(row, state="failed" if seen is JobState.FAILED else "interrupted", host="", remark=remark)


def row_of(run: RunFolder) -> Row:
    """The row of one run; a damaged folder gives a row that says what is wrong with it, and never an error."""
    try:
        return _row(run)
    except UserError as damage:
        return _damaged(run, str(damage))
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as damage:
        return _damaged(run, f"{RECORD} holds what cannot be meant ({type(damage).__name__}: {damage})")


def _damaged(run: RunFolder, what: str) -> Row:
    return Row(folder=run.path, experiment="", stage="", name=run.name, task="", state="damaged", error=what)


def _row(run: RunFolder) -> Row:
    record = run.record()
    told = Fields(record, RECORD)
    progress = Fields(run.progress(), PROGRESS)
    error = told.object("error", None)
    alive = record.alive
    return Row(
        folder=run.path,
        experiment=told.text("experiment", ""),
        stage=told.text("stage", ""),
        name=run.name,
        task=told.text("task", ""),
        state=record.standing,
        handle=told.text("handle", ""),
        host=(told.text("node", "") or told.text("host", "")) if alive else "",
        description=progress.text("description", ""),
        step=progress.integer("step", None),
        total=progress.integer("total", None),
        unit=progress.text("unit", "step", most=40),
        rate=progress.number("rate", 0.0),
        shown=dict(_shown(progress)),
        seconds=_since(told.text("started", None)) if alive else record.seconds,
        error=str(error.content.get("message") or "").split("\n")[0] if error else "",
        created=told.text("created", ""),
    )


def _shown(progress: Fields) -> Iterator[tuple[str, JSON]]:
    values = progress.object("shown", None)
    for key, value in list(values.content.items())[:8] if values else ():
        if isinstance(value, str | float) or isinstance(value, int) and abs(value) < 2**63:
            yield key, value


def counts(table: Sequence[Row]) -> dict[str, int]:
    """{state: how many}, in the order of their first appearance."""
    found: dict[str, int] = {}
    for row in table:
        found[row.state] = found.get(row.state, 0) + 1
    return found


def _since(started: str | None) -> float | None:
    return (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds() if started else None
