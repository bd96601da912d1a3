"""Jobs that outlive their controller: which executor has them, under which handle, and how they stand with it.

`launcher.json` in an experiment's folder names the executor and its settings; each job's record holds its handle. So
any process can ask, cancel or follow a job, whoever submitted it and whether that process is still there.
"""

import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from xp.atomic import plain, write_json
from xp.errors import UserError
from xp.foreign.json_file import Fields
from xp.foreign.text import printable
from xp.json_types import JSON, JSONObject
from xp.runs.executors.protocol import Executor, JobState, Submission, executor_named
from xp.runs.jobs.secrets import redact
from xp.runs.jobs.signature import is_own, sign
from xp.runs.records.folder import RECORD
from xp.runs.records.json_io import read_object
from xp.runs.records.lock import Busy, hold, holder, locked
from xp.runs.records.record import Record, State, now, process_start

LAUNCHER = "launcher.json"
CONTROLLER = ".controller"
"""The file whose lock an experiment's controller holds."""
_OPEN = (State.PENDING, State.RUNNING)


def note_launcher(experiment: Path, executor: str, settings: JSONObject) -> None:
    """Write launcher.json: the executor's name and settings (secrets left out), and the process that submits."""
    controller = {"host": socket.gethostname(), "pid": os.getpid(), "process_start": process_start(os.getpid())}
    signed = {"executor": executor, "settings": plain(redact(dict(settings))[0])}
    write_json(experiment / LAUNCHER, {**signed, "signature": sign(signed), "controller": controller, "time": now()})
    _attend(experiment)


class ForeignLauncher(UserError):  # noqa: N818 - a state of affairs
    """The settings of a launcher that this user did not write."""


def launcher_settings(experiment: Path) -> tuple[str, dict[str, JSON]] | None:
    """The executor's name and settings as this user's own command wrote them; None if there is no launcher.json.

    Settings name hosts, programs and commands, so those of somebody else are never obeyed.

    Raises:
        ForeignLauncher: launcher.json was not written by this user's xp, or changed since.
    """
    path = experiment / LAUNCHER
    noted = Fields(read_object(path, default={}), printable(path))
    if not noted.content:
        return None
    settings = noted.object("settings", None)
    executor, given = noted.text("executor", ""), dict(settings.content) if settings else {}
    if not is_own({"executor": executor, "settings": given}, noted.content.get("signature")):
        raise ForeignLauncher(
            f"{noted.source} was not written by your xp, or was changed since: the hosts, programs and commands in it "
            "are not used. If the experiment is yours, give the command that started it once more from here (it takes "
            "up what is there), then this one."
        )
    return executor, given


_attended: set[Path] = set()


def _attend(experiment: Path) -> None:
    """Hold the experiment until this process ends: whoever looks for its controller finds the holder of this lock."""
    experiment = experiment.resolve()
    if experiment not in _attended and hold(experiment / CONTROLLER):
        _attended.add(experiment)


def controller_of(experiment: Path) -> int | None:
    """The process on this host that attends to an experiment, if there is one: the holder of its lock."""
    experiment = experiment.resolve()
    return os.getpid() if experiment in _attended else holder(experiment / CONTROLLER)


def _controller(experiment: Path) -> JSONObject:
    """Host, process and its start, as launcher.json has them; empty if it has not."""
    path = experiment / LAUNCHER
    noted = Fields(read_object(path, default={}), printable(path)).object("controller", None)
    return noted.content if noted else {}


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
        UserError: that executor is not installed here, or its settings are not this user's (`ForeignLauncher`).
    """
    record = Record(folder / RECORD)
    if not record.get("handle"):
        return None
    name = str(record.get("executor"))
    noted, settings = launcher_settings(folder.parent) or ("", {})
    try:
        return executor_named(name, **(settings if noted == name else {}))
    except (TypeError, ValueError) as error:
        source = printable(folder.parent / LAUNCHER)
        raise UserError(f"{source}: these settings do not fit '{name}': {printable(error)}") from error


def ask(folders: Iterable[Path]) -> dict[Path, JobState]:
    """How jobs stand with their executors. Left out: finished ones, those without a handle, those nobody can tell of.

    A silent executor (no such command here, cluster not reachable) tells nothing: then record and heartbeat decide.
    Jobs that ended without a word of their own (killed, cancelled from outside) get it written into their records.
    """
    return _asked(folders, _states)


def _states(executor: Executor, handles: Mapping[str, Path]) -> dict[str, JobState]:
    states = executor.states(list(handles))
    ended = {handle: handles[handle] for handle, state in states.items() if state is JobState.INTERRUPTED}
    if ended:
        executor.settle(ended)
    return states


def remarks_on(folders: Iterable[Path]) -> dict[Path, str]:
    """What executors say of jobs beside their states: what each waits for, why it ended."""
    return _asked(folders, lambda executor, handles: executor.remarks(list(handles)))


def by_executor(folders: Iterable[Path]) -> Iterator[tuple[Executor, dict[str, Path]]]:
    """Unfinished jobs that were handed to an executor, as (executor, {handle: folder}).

    Raises:
        UserError: an executor is not installed here.
    """
    for handles in _in_hands(folders):
        executor = executor_of(next(iter(handles.values())))
        if executor is not None:
            yield executor, handles


def _in_hands(folders: Iterable[Path]) -> list[dict[str, Path]]:
    """{handle: folder} of unfinished jobs, for each experiment and executor."""
    waiting: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for folder in folders:
        record = Record(folder / RECORD)
        if record.state in _OPEN and record.get("handle"):
            waiting[folder.parent, str(record.get("executor"))][str(record["handle"])] = folder
    return list(waiting.values())


def _asked[T](
    folders: Iterable[Path], question: Callable[[Executor, Mapping[str, Path]], dict[str, T]]
) -> dict[Path, T]:
    found: dict[Path, T] = {}
    for handles in _in_hands(folders):
        try:
            executor = executor_of(next(iter(handles.values())))
            if executor is not None:
                found |= {handles[handle]: answer for handle, answer in question(executor, handles).items()}
        except UserError:
            continue
    return found


def is_open(record: Record, seen: JobState | None) -> bool:
    """Whether a job waits for or has a machine: its executor's word counts; where it has none, the heartbeat."""
    if record.state not in _OPEN:
        return False
    return not seen.ended if seen is not None else record.alive


def never_begun(folder: Path, record: Record | None = None) -> bool:
    """Whether a job was only frozen: cancelled before it started, or of a sweep that was refused or killed before it
    had put the job into anybody's hands.
    """
    record = Record(folder / RECORD) if record is None else record
    if record.state not in (State.PENDING, State.CANCELLED) or record.interrupted or record.get("attempts"):
        return False
    if record.state is State.CANCELLED:
        return True
    if record.get("handle"):
        return False
    noted = _controller(folder.parent)
    return noted.get("host") == socket.gethostname() and controller_of(folder.parent) in (None, os.getpid())


@contextmanager
def submission_locks(executor: Executor | None, experiments: Iterable[Path]) -> Iterator[None]:
    """Keep other calls from planning, freezing and submitting the same jobs, where the executor has a lock for that."""
    with ExitStack() as held:
        if executor is not None:
            for experiment in sorted(set(experiments)):
                held.enter_context(executor.submission_lock(experiment))
        yield


def adopt_unnoted(experiments: Iterable[Path]) -> None:
    """Note the handles of jobs whose submission their records do not know, since whoever submitted them was killed."""
    for experiment in experiments:
        try:
            noted = Fields(read_object(experiment / LAUNCHER, default={}), printable(experiment / LAUNCHER))
            settings = noted.object("settings", None)
            executor = executor_named(noted.text("executor", ""), **(settings.content if settings else {}))
            for folder, handle in executor.recover(experiment).items():
                note_handle(folder, executor.name, handle)
        except (UserError, TypeError, ValueError):  # nothing was handed to anybody, or nobody can tell
            continue


def experiments_at(folders: Iterable[Path]) -> list[Path]:
    """The folders at, above (of a run) or below (two levels) the given ones that jobs were submitted from."""
    found = [each for folder in folders for each in (folder, folder.parent, *folder.glob("*/"), *folder.glob("*/*/"))]
    return [each for each in dict.fromkeys(found) if (each / LAUNCHER).is_file()]


def submit_and_note(executor: Executor, jobs: Sequence[Submission]) -> list[str]:
    """Hand jobs to an executor; store the handles in the records if the executor's jobs outlive this process."""
    handles = executor.submit(jobs)
    if executor.detachable:
        for job, handle in zip(jobs, handles):
            if handle != job.handle:
                note_handle(job.folder, executor.name, handle)
    return handles
