"""Jobs that outlive their controller: which executor has them, under which handle, and how they stand with it.

`launcher.json` in an experiment's folder names the executor and its settings; each job's record holds its handle. So
any process can ask, cancel or follow a job, whoever submitted it and whether that process is still there.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xp.errors import UserError
from xp.runs.atomic import write_json
from xp.runs.executor import Executor, JobState, Submission, executor_named
from xp.runs.folder import RECORD
from xp.runs.lock import Busy, locked
from xp.runs.reading import read_json
from xp.runs.record import Record, State, now
from xp.runs.secret import redact

LAUNCHER = "launcher.json"
_OPEN = (State.PENDING, State.RUNNING)


def note_launcher(experiment: Path, executor: str, settings: Mapping[str, Any]) -> None:
    """Write launcher.json: the executor's name and settings, secrets left out."""
    write_json(experiment / LAUNCHER, {"executor": executor, "settings": redact(dict(settings))[0], "time": now()})


def note_handle(folder: Path, executor: str, handle: str) -> None:
    """Store a job's handle in its record; a job that is at work already has written it there itself."""
    try:
        with locked(folder):
            Record(folder / RECORD).update(executor=executor, handle=handle, submitted=now())
    except Busy:
        return


def executor_of(folder: Path) -> Executor | None:
    """The executor that has the job in `folder`; None if the job was never handed to one that outlives its controller.

    Raises:
        UserError: that executor is not installed here.
    """
    record = Record(folder / RECORD)
    if not record.get("handle"):
        return None
    name = str(record.get("executor"))
    noted = read_json(folder.parent / LAUNCHER, default={})
    settings = noted.get("settings", {}) if noted.get("executor") == name else {}
    return executor_named(name, **settings)


def ask(folders: Iterable[Path]) -> dict[Path, JobState]:
    """How jobs stand with their executors. Left out: finished ones, those without a handle, those nobody can tell of.

    A silent executor (no such command here, cluster not reachable) tells nothing: then record and heartbeat decide.
    """
    waiting: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for folder in folders:
        record = Record(folder / RECORD)
        if record.state in _OPEN and record.get("handle"):
            waiting[folder.parent, str(record.get("executor"))][record["handle"]] = folder
    found: dict[Path, JobState] = {}
    for handles in waiting.values():
        try:
            executor = executor_of(next(iter(handles.values())))
            states = executor.states(list(handles)) if executor is not None else {}
        except UserError:
            continue
        found |= {handles[handle]: state for handle, state in states.items()}
    return found


def is_open(record: Record, seen: JobState | None) -> bool:
    """Whether a job waits for or has a machine: its executor's word counts; where it has none, the sign of life."""
    if record.state not in _OPEN:
        return False
    return not seen.ended if seen is not None else record.alive


def submit_and_note(executor: Executor, jobs: Sequence[Submission]) -> list[str]:
    """Hand jobs to an executor; store the handles in the records if the executor's jobs outlive this process."""
    handles = executor.submit(jobs)
    if executor.detachable:
        for job, handle in zip(jobs, handles):
            if not job.handle:
                note_handle(job.folder, executor.name, handle)
    return handles
