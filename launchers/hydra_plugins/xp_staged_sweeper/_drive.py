"""Drive an executor until every job has ended, showing how they stand."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra_plugins.xp_staged_sweeper._experiment import Planned
from xp.runs.executor import Executor, JobState
from xp.runs.folder import RunFolder
from xp.runs.progress import clock_text
from xp.runs.signals import listening
from xp.runs.status import Row, row_of

_LOOK_S = 0.25
_DRAW_S = 0.5
_SHOWN_ROWS = 16


def drive(
    executor: Executor, jobs: Sequence[Planned], folders: Mapping[str, Path], *, grace_s: float, console: Any
) -> dict[Path, JobState]:
    """Wait for submitted jobs, {handle: folder}. Ctrl-C lets them write a checkpoint; a second one ends them at once.

    Where jobs outlive the controller, Ctrl-C leaves them at work.
    """
    view = TableView(jobs, console) if console.is_terminal else LineView(jobs, console)
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
    """Plain lines: one when a job starts, one when it ends."""

    def __init__(self, jobs: Sequence[Planned], console: Any):
        self._names = {planned.job.folder: f"{planned.stage.key}/{planned.job.name}" for planned in jobs}
        self._console, self._known = console, dict.fromkeys(self._names, JobState.WAITING)

    def __enter__(self) -> "LineView":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def show(self, states: dict[Path, JobState]) -> None:
        """Say what has changed."""
        for folder, state in states.items():
            if state is self._known[folder]:
                continue
            self._known[folder] = state
            ended = sum(each.ended for each in self._known.values())
            self.say(f"[{ended}/{len(self._known)}] {state}: {self._names[folder]}{_details(folder, state)}")


class TableView(LineView):
    """A live table: stages with their counts, and the jobs at work."""

    def __init__(self, jobs: Sequence[Planned], console: Any):
        super().__init__(jobs, console)
        from rich.live import Live

        self._jobs, self._drawn = jobs, 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "TableView":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, states: dict[Path, JobState]) -> None:
        """Draw the table anew, at most twice a second."""
        failed = {folder: state for folder, state in states.items() if state in (JobState.FAILED, JobState.BLOCKED)}
        super().show(failed)
        self._known.update(states)
        if time.monotonic() - self._drawn >= _DRAW_S:
            self._drawn = time.monotonic()
            self._live.update(self._draw(), refresh=True)

    def _draw(self) -> Any:
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
        counts = {state: list(self._known.values()).count(state) for state in JobState}
        parts = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
        return f"{len(self._known)} jobs: {parts}"


def _details(folder: Path, state: JobState) -> str:
    if not state.ended or state is JobState.BLOCKED:
        return ""
    row: Row = row_of(RunFolder(folder))
    took = f" ({clock_text(row.seconds)})" if row.seconds is not None else ""
    return f"{took}: {row.error}" if row.error else took
