"""A run's output: everything it prints goes to its own log.txt, tracebacks included."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOBase
from pathlib import Path
from typing import TextIO

from xp.runs.execution.progress import print_above


class Tee(TextIOBase):
    """A text stream that writes to a log file and, line by line, to a terminal stream for as long as that is there."""

    def __init__(self, log: TextIO, echo: TextIO | None):
        self._log, self._echo, self._rest = log, echo, ""

    def write(self, text: str) -> int:
        """Write to the log at once, to the terminal when a line is complete (a bar may be drawn there)."""
        self._log.write(text)
        if self._echo is not None:
            lines, newline, self._rest = (self._rest + text).rpartition("\n")
            if newline:
                self._show(lines + newline)
        return len(text)

    def _show(self, text: str) -> None:
        """Write to the terminal. Whoever read it may have gone (`| head`): the run goes on, and its log has all."""
        assert self._echo is not None
        try:
            print_above(text, self._echo)
        except (BrokenPipeError, ValueError):
            self._echo, self._rest = None, ""

    def flush(self) -> None:
        """Flush the log."""
        if not self._log.closed:
            self._log.flush()

    def finish(self) -> None:
        """Bring out a last line that has no newline."""
        if self._echo is not None and self._rest:
            self._show(self._rest + "\n")
        self._rest = ""
        self.flush()

    def isatty(self) -> bool:
        """False: libraries that draw bars of their own must not draw them into a log."""
        return False

    def fileno(self) -> int:
        """The descriptor of the log, for subprocesses."""
        return self._log.fileno()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Logs are UTF-8."""
        return "utf-8"

    def writable(self) -> bool:
        """True."""
        return True


class SwitchableStream(TextIOBase):
    """A text stream that outlives runs: it writes to the log of the run at hand, between runs to standard error.

    Libraries make log handlers when they are first imported, and such a handler keeps the stream of that moment. In a
    worker the next run has another log, and that of the first is closed.
    """

    def __init__(self) -> None:
        self.log: TextIO | None = None

    def write(self, text: str) -> int:
        """Write to the log of the run at hand."""
        stream = self.log or sys.__stderr__
        return len(text) if stream is None else stream.write(text)

    def flush(self) -> None:
        """Flush that log."""
        if (stream := self.log or sys.__stderr__) is not None:
            stream.flush()

    def isatty(self) -> bool:
        """False: see `Tee`."""
        return False

    def fileno(self) -> int:
        """The descriptor of standard error, which `to_log` points at the log."""
        return 2

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Logs are UTF-8."""
        return "utf-8"

    def writable(self) -> bool:
        """True."""
        return True

    @contextmanager
    def to(self, log: TextIO) -> Iterator[None]:
        """Let this stream stand for standard output and error, and write to `log`."""
        before, self.log = self.log, log
        try:
            with redirect_stdout(self), redirect_stderr(self):  # pyright: ignore[reportArgumentType]
                yield
        finally:
            self.log = before


_STREAM = SwitchableStream()


@contextmanager
def to_log(path: Path, *, echo: bool) -> Iterator[None]:
    """Send what this process prints to the end of `path`.

    With `echo` it is shown on the terminal too (a run started by hand). Without (a worker) the file descriptors 1 and
    2 themselves are redirected, so that words of C++ libraries and the last words of a crash land in the log as well.
    """
    with path.open("a", buffering=1, encoding="utf-8", errors="replace") as log:
        if echo:
            with _echoing(log):
                yield
        else:
            with _descriptors(log), _STREAM.to(log):
                yield


@contextmanager
def _echoing(log: TextIO) -> Iterator[None]:
    out, err = Tee(log, sys.stdout), Tee(log, sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):  # pyright: ignore[reportArgumentType]
        try:
            yield
        finally:
            out.finish()
            err.finish()


@contextmanager
def _descriptors(log: TextIO) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        yield
    finally:
        for number, descriptor in zip((1, 2), kept):
            os.dup2(descriptor, number)
            os.close(descriptor)
