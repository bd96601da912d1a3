"""`xp task=cancel`: cancel the waiting and running jobs below a folder, whatever launched them, from any shell."""

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from xp.errors import UserError, join_names, some
from xp.foreign.text import printable
from xp.runs import Record, State
from xp.runs.executors.protocol import JobState
from xp.runs.executors.status import Row
from xp.runs.executors.submitted import adopt_unnoted, ask, by_executor, controller_of, experiments_at
from xp.runs.records.folder import RECORD
from xp.runs.records.lock import LOCK, Busy, holder, locked
from xp.shell import command, near
from xp.tasks.status import look, places


def show(config: DictConfig) -> int:
    """Cancel; prints what was done. Exit code 0, also if there was nothing to cancel."""
    folders = places(config.cancel.folder, config, "cancel.folder")
    adopt_unnoted(experiments_at(folders))
    found = [row for row in look(folders) if row.open]
    if not found:
        print("Nothing waits or runs there.")
        return 0
    if config.cancel.folder is None:
        _refuse_several(found)
    in_hands = [row.folder for row in found if row.handle]
    running = {folder for folder, state in ask(in_hands).items() if state is JobState.RUNNING}
    for executor, handles in by_executor(in_hands):
        print(f"{executor.name}: cancelled {join_names(executor.cancel_jobs(handles))}")
    for folder in in_hands:
        if folder not in running:
            _mark(folder)
    for line in _end_processes([row for row in found if not row.handle]):
        print(line)
    print("What ran writes a checkpoint and leaves; the same command that started it goes on from there.")
    return 0


def _refuse_several(found: Sequence[Row]) -> None:
    experiments = sorted({str(row.folder.parent if row.experiment else row.folder) for row in found})
    if len(experiments) > 1:
        raise UserError(
            f"There is work in several places: {some(experiments)}. Choose one, for instance: "
            f"{command('task=cancel', cancel__folder=near(experiments[0]))}"
        )


def _mark(folder: Path) -> None:
    """Note that a job which had no machine yet will not get one."""
    try:
        with locked(folder):
            record = Record(folder / RECORD)
            if record.state is State.PENDING:
                record.update(state=State.CANCELLED)
    except Busy:
        return


def _end_processes(found: Sequence[Row]) -> list[str]:
    """Ask processes on this host to leave: the controller of a sweep (it lets its jobs leave), else the run itself.

    Who that is, the system says: the holder of the experiment's or of the run's lock, never a file.
    """
    lines, asked = [], set()
    for row in found:
        host = Record(row.folder / RECORD).get("host")
        if host != socket.gethostname():
            raise UserError(f"{printable(row.folder)} is at work on {printable(host)}. Run the same command there.")
        controller, worker = controller_of(row.folder.parent), holder(row.folder / LOCK)
        pid = controller or worker
        if pid is None:
            lines.append(f"{printable(row.name)}: no process holds its folder, so none was asked to leave")
            continue
        if pid not in asked:
            _ask(pid, signal.SIGINT if controller else signal.SIGTERM)
            asked.add(pid)
        lines.append(f"{printable(row.name)}: process {pid} was asked to leave")
    return lines


def _ask(pid: int, number: signal.Signals) -> None:
    """Signal a process that held a lock a moment ago; one that has left meanwhile has done what was wanted."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        raise UserError(f"Process {pid} belongs to another user, who has to end it.") from None
