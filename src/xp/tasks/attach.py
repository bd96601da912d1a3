"""`xp task=attach`: follow a run's log until the run ends, from any shell; Ctrl-C does not stop the run."""

import time
from pathlib import Path

from omegaconf import DictConfig

from xp.errors import UserError, some
from xp.foreign.text import printable
from xp.runs.executors.status import Row, row_of, with_executors
from xp.runs.executors.submitted import adopt_unnoted, executor_of
from xp.runs.records.folder import LOG, RunFolder, load_run
from xp.shell import command, near
from xp.tasks.status import look, places

_EVERY_S = 0.3
_LOOK_EVERY_S = 3.0
_MOST = 1 << 20
"""Bytes of a log that are read at a time, and looked through for its last lines."""


def show(config: DictConfig) -> int:
    """Print the log as it grows. Exit code 0: done, or left by Ctrl-C; 1: the run ended otherwise."""
    run = load_run(config.attach.run) if config.attach.run is not None else _only_one(config)
    adopt_unnoted([run.path.parent])
    try:
        last = _follow(run, config.attach.lines)
    except KeyboardInterrupt:
        print(f"\nleft; {run.name} goes on")
        return 0
    print(f"{last.state}: {run.path}" + (f": {last.error or last.remark}" if last.error or last.remark else ""))
    return 0 if last.state == "done" else 1


def _only_one(config: DictConfig) -> RunFolder:
    found = [row for row in look(places(None, config, "attach.run")) if row.open]
    running = [row for row in found if row.state == "running"] or found
    if len(running) == 1:
        return RunFolder(running[0].folder)
    if not running:
        raise UserError("No run is running now. Choose a run whose log to show: attach.run=FOLDER")
    raise UserError(
        f"{len(running)} runs are running: {some(near(row.folder) for row in running)}. Choose one, for instance: "
        f"{command('task=attach', attach__run=near(running[0].folder))}"
    )


def _follow(run: RunFolder, lines: int) -> Row:
    """Copy the log to the terminal until the run is open no more; gives its last row."""
    position = _tail(run.path / LOG, lines)
    said = ""
    row = _row(run)
    while True:
        looked = time.monotonic()
        if row.open and (words := _standing(row)) != said:
            print(words, flush=True)
            said = words
        while time.monotonic() - looked < _LOOK_EVERY_S:
            position = _copy(run.path / LOG, position)
            if not row.open:
                _last_words(run, row)
                return row
            time.sleep(_EVERY_S)
        row = _row(run)


def _standing(row: Row) -> str:
    """What there is to say of an open run beside its log."""
    if row.state == "running":
        return f"running on {row.host} (Ctrl-C leaves it at work)"
    return f"{row.state} {row.handle} {row.remark}".strip()


def _row(run: RunFolder) -> Row:
    return with_executors([row_of(run)])[0]


def _tail(log: Path, lines: int) -> int:
    """Where the last `lines` lines of a file begin, as far back as one reads; 0 if it is not there yet."""
    size = log.stat().st_size if log.is_file() else 0
    begin = max(0, size - _MOST)
    data = _read(log, begin, size)
    if not lines:
        return size
    return begin + len(data) - sum(len(line) for line in data.splitlines(keepends=True)[-lines:])


def _copy(log: Path, position: int) -> int:
    """Print what stands behind `position`; gives the new end. What a terminal would obey is made visible."""
    if not log.is_file():
        return position
    data = _read(log, position, log.stat().st_size)
    if data:
        text = data.decode(errors="replace").replace("\r\n", "\n")
        print(printable(text, len(text), lines=True), end="", flush=True)
    return position + len(data)


def _read(log: Path, begin: int, end: int) -> bytes:
    """A part of a file, at most so much at a time: a log may be of any size."""
    if end <= begin:
        return b""
    with log.open("rb") as handle:
        handle.seek(begin)
        return handle.read(min(end - begin, _MOST))


def _last_words(run: RunFolder, row: Row) -> None:
    """For a run that never wrote a log: what its executor has of it."""
    if (run.path / LOG).exists() or row.state == "done":
        return
    executor = executor_of(run.path)
    if executor is None:
        return
    try:
        log = executor.log(row.handle)
    except UserError:  # it has nothing, or nothing any more
        return
    _copy(log, 0)
