"""Progress of one run: a bar on a terminal, plain lines elsewhere, and `progress.json` for whoever looks on."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from xp.atomic import plain, write_json
from xp.json_types import JSON
from xp.runs.records.folder import PROGRESS
from xp.runs.records.json_io import read_object

WRITE_EVERY_S = 0.5
"""How often at most progress.json is rewritten and the bar redrawn."""
_AGES_S = 1e9
LINE_EVERY_S = 10.0
"""How often at most a plain line is printed when there is no terminal."""


class Progress:
    """Count steps towards `total`. `advance` costs a clock reading, except when something is due to be shown.

    `shown` values (loss and the like) are turned into numbers only when they are shown, so a device array given each
    step does not make the loop wait for the device each step.
    """

    def __init__(
        self,
        total: int,
        description: str,
        *,
        unit: str = "step",
        start: int = 0,
        file: Path | None = None,
        terminal: TextIO | None = None,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.description, self.unit, self.step = total, description, unit, start
        self._file, self._say, self._clock, self._start = file, say, clock, start
        self._shown: dict[str, object] = {}
        self._began = self._written = self._said = clock()
        self._bar = Bar(self, terminal) if terminal is not None and terminal.isatty() else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.open()
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._write()
        if self._bar:
            self._bar.close()
        if not self._bar or kind is None:
            self._say(self.line())

    def advance(self, n: int = 1, **shown: object) -> None:
        """Note that `n` more steps are done; `shown` are values to put beside the bar."""
        self.step += n
        if shown:
            self._shown = shown
        now = self._clock()
        if now - self._written < WRITE_EVERY_S:
            return
        self._written = now
        self._write()
        if self._bar:
            self._bar.draw()
        elif now - self._said >= LINE_EVERY_S and self.step < self.total:  # leaving says the last line
            self._said = now
            self._say(self.line())

    @property
    def rate(self) -> float:
        """Steps per second since this progress began (steps of earlier attempts do not count)."""
        seconds = self._clock() - self._began
        return (self.step - self._start) / seconds if seconds > 0 else 0.0

    @property
    def shown(self) -> dict[str, JSON]:
        """The values beside the bar, as plain numbers and text."""
        return {key: plain(value) for key, value in self._shown.items()}

    def line(self) -> str:
        """One plain line: `training: 120/300 steps, 14.2 steps/s, 0:12 left, loss 0.31`."""
        parts = [f"{self.description}: {self.step}/{self.total} {self.unit}s", f"{self.rate:.3g} {self.unit}s/s"]
        left = seconds_left(self.step, self.total, self.rate)
        if self.step >= self.total:
            parts.append(f"took {clock_text(self._clock() - self._began)}")
        elif left is not None:
            parts.append(f"{clock_text(left)} left")
        return ", ".join(parts + [f"{key} {short(value)}" for key, value in self.shown.items()])

    def _write(self) -> None:
        if self._file is None:
            return
        content = {"description": self.description, "step": self.step, "total": self.total, "unit": self.unit}
        content |= {"rate": self.rate, "shown": self.shown, "time": time.time()}
        write_json(self._file, content, durable=False)


class Bar:
    """A rich bar, redrawn only from `Progress.advance`: no thread of its own."""

    def __init__(self, progress: Progress, terminal: TextIO):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = [TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[text]}")]
        self._progress = progress
        self.console = Console(file=terminal, force_terminal=True)
        self._rich = RichProgress(
            *columns, console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
            transient=True,
        )  # fmt: skip
        self._task = self._rich.add_task(progress.description, total=progress.total, text="")

    def open(self) -> None:
        """Start drawing; lines printed meanwhile go above the bar."""
        open_bars.append(self)
        self._rich.start()
        self.draw()

    def draw(self) -> None:
        """Draw the present state."""
        text = self._progress.line().partition(": ")[2]
        self._rich.update(self._task, completed=self._progress.step, text=text, refresh=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        open_bars.remove(self)
        self._rich.stop()


open_bars: list[Bar] = []
"""Bars on the screen, the newest last: whoever prints on the terminal meanwhile prints through its console."""


def print_above(text: str, terminal: TextIO) -> None:
    """Write whole lines on the terminal, above a bar if one is drawn."""
    if open_bars:
        open_bars[-1].console.print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)
    else:
        terminal.write(text)
        terminal.flush()


def last_step(folder: Path) -> int | None:
    """The step that a run's progress file shows; None if there is none yet."""
    step = read_object(folder / PROGRESS, default={}).get("step")
    return step if isinstance(step, int) else None


def seconds_left(step: float, total: float, rate: float) -> float | None:
    """Seconds to the end at this rate; None while the rate is unknown."""
    return max(0.0, total - step) / rate if rate > 0 else None


def clock_text(seconds: float) -> str:
    """Seconds as people write them: `0:07`, `12:30`, `3:05:00`."""
    if not abs(seconds) < _AGES_S:  # nan too
        return "?"
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short(value: object) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def own_terminal() -> TextIO | None:
    """The terminal of this process, or None if its output goes elsewhere."""
    return sys.__stdout__ if sys.__stdout__ is not None and sys.__stdout__.isatty() else None
