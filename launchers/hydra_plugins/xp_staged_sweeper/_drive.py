"""Drive an executor until every job has ended, showing how they stand."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_plugins.xp_staged_sweeper._experiment import PlannedJob
from hydra_plugins.xp_staged_sweeper._left import TimeLeft
from xp.runs.execution.progress import clock_text
from xp.runs.execution.signals import listening
from xp.runs.executors.protocol import Executor, JobState
from xp.runs.executors.status import Row, row_of
from xp.runs.records.folder import RunFolder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LOOK_S = 0.25
_DRAW_S = 0.5
_SHOWN_ROWS = 16
_MANY = 60
"""More jobs than this get no lines of their own, but for failures."""
_FAILURES = 20
"""Failures of many jobs that get a line of their own."""
_COUNT_EVERY_S = 10.0
_LEFT_EVERY_S = 30.0
_ORDER = (JobState.DONE, JobState.FAILED, JobState.BLOCKED, JobState.INTERRUPTED, JobState.RUNNING, JobState.WAITING)


def drive(
    executor: Executor,
    jobs: Sequence[PlannedJob],
    folders: Mapping[str, Path],
    *,
    grace_s: float,
    console: "Console",
    expected: Mapping[Path, float | None],
) -> dict[Path, JobState]:
    """Wait for submitted jobs, {handle: folder}; `expected` are the seconds each may take.

    Ctrl-C lets them write a checkpoint; a second one ends them at once.

    Where jobs outlive the controller, Ctrl-C leaves them at work.
    """
    view = TableView(jobs, console) if console.is_terminal else LineView(jobs, console)
    view.left = TimeLeft(expected, executor.n_jobs or len(jobs))
    states: dict[Path, JobState] = {}
    try:
        with listening() as stop, view:
            asked = False
            while not states or not all(state.ended for state in states.values()):
                if stop and executor.detachable:
                    view.say("leaving: the jobs go on without this process")
                    return states
                if stop and not asked:
                    asked = True
                    view.say(f"leaving: jobs may take {grace_s:.0f} s for a checkpoint; Ctrl-C again ends them at once")
                    executor.cancel(grace_s=grace_s)
                states = {folders[handle]: state for handle, state in executor.poll(_LOOK_S).items()}
                view.show(states)
    except KeyboardInterrupt:
        executor.cancel(grace_s=0.0)
    finally:
        executor.close()
    final = executor.poll()
    ends = {folder: final[handle] for handle, folder in folders.items()}
    return {folder: state if state.ended else JobState.INTERRUPTED for folder, state in ends.items()}


class LineView:
    """Plain lines: one when a job starts, one when it ends. Of many jobs only the failures, and how many have ended."""

    def __init__(self, jobs: Sequence[PlannedJob], console: "Console", clock: Callable[[], float] = time.monotonic):
        self._names = {planned.job.folder: f"{planned.stage.key}/{planned.job.name}" for planned in jobs}
        self._console, self._known = console, dict.fromkeys(self._names, JobState.WAITING)
        self._ended = self._failures = 0
        self._clock, self._began = clock, clock()
        self._next_count = self._began + _COUNT_EVERY_S
        self.left: TimeLeft | None = None
        self._next_left = self._began

    def __enter__(self) -> "LineView":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def show(self, states: dict[Path, JobState]) -> None:
        """Say what has changed."""
        many = len(self._names) > _MANY
        for folder, state in states.items():
            if state is self._known[folder]:
                continue
            self._known[folder] = state
            self._ended += state.ended
            if not many or self._is_told(state):
                told = f"[{self._ended}/{len(self._known)}] {state}: {self._names[folder]}"
                self.say(told + _details(folder, state))
        if not many:
            self._say_left(states)
        elif self._clock() >= self._next_count or self._ended == len(self._known):
            self._count()

    def _say_left(self, states: dict[Path, JobState]) -> None:
        """From the first job on, now and then: how long it may take still, by the speed so far."""
        text = self._left_text(states)
        if text and self._clock() >= self._next_left:
            self._next_left = self._clock() + _LEFT_EVERY_S
            self.say(text)

    def _left_text(self, states: dict[Path, JobState]) -> str:
        if self.left is None:
            return ""
        self.left.note(states, self._clock())
        seconds = self.left.seconds(self._clock())
        return f"about {clock_text(seconds)} left" if seconds else ""

    def _is_told(self, state: JobState) -> bool:
        """Of many jobs: the first failures; then one line says that further ones are only counted."""
        if state is not JobState.FAILED:
            return False
        self._failures += 1
        if self._failures == _FAILURES + 1:
            self.say(f"{_FAILURES} failures were shown; further ones are counted. xp task=status shows them all.")
        return self._failures <= _FAILURES

    def _count(self) -> None:
        """How many stand how, and how long the rest takes at this rate. Later counts come at greater distances."""
        passed = self._clock() - self._began
        self._next_count = self._clock() + max(_COUNT_EVERY_S, passed / 20)
        left = passed / self._ended * (len(self._known) - self._ended) if self._ended else 0.0
        about = f"; about {clock_text(left)} left" if left else ""
        self.say(f"[{self._ended}/{len(self._known)}] {counted(self._known.values())}{about}")


def counted(states: Iterable[JobState]) -> str:
    """`12 done, 1 failed, 2 running, 85 waiting`."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])


class TableView(LineView):
    """A live table: stages with their counts, and the jobs at work."""

    def __init__(self, jobs: Sequence[PlannedJob], console: "Console"):
        super().__init__(jobs, console)
        from rich.live import Live

        self._jobs, self._drawn, self._left_now = jobs, 0.0, ""
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "TableView":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, states: dict[Path, JobState]) -> None:
        """Draw the table anew, at most twice a second."""
        failed = {folder: state for folder, state in states.items() if state is JobState.FAILED}
        for folder, state in failed.items():
            if self._known[folder] is not state and self._is_told(state):
                self.say(f"{state}: {self._names[folder]}{_details(folder, state)}")
        self._known.update(states)
        self._left_now = self._left_text(states)
        if time.monotonic() - self._drawn >= _DRAW_S:
            self._drawn = time.monotonic()
            self._live.update(self._draw(), refresh=True)

    def _draw(self) -> "Table":
        from rich.table import Table

        grid = Table(title=self._title(), title_justify="left")
        for column in ("stage", "job", "state", "progress", "", "time"):
            grid.add_column(column, no_wrap=column != "")
        running = [folder for folder, state in self._known.items() if state is JobState.RUNNING]
        for folder in running[:_SHOWN_ROWS]:
            stage, name, state, _, progress, words, clock = row_of(RunFolder(folder)).cells()
            grid.add_row(stage, name, state, progress, words, clock)
        if len(running) > _SHOWN_ROWS:
            grid.add_row("", f"and {len(running) - _SHOWN_ROWS} more", "", "", "", "")
        return grid

    def _title(self) -> str:
        left = f"; {self._left_now}" if self._left_now else ""
        return f"{len(self._known)} jobs: {counted(self._known.values())}{left}"


def _details(folder: Path, state: JobState) -> str:
    if not state.ended or state is JobState.BLOCKED:
        return ""
    row: Row = row_of(RunFolder(folder))
    took = f" ({clock_text(row.seconds)})" if row.seconds is not None else ""
    return f"{took}: {row.error}" if row.error else took
