# pyright: strict
"""What every way of running jobs offers: submit with dependencies, poll, cancel, logs. Subclass `Executor` to add one.

Executors are found by name through the entry-point group `xp.executors`; a record names its executor, so that whoever
reads it can ask for the job's state without knowing where executors come from.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NotRequired, TypedDict

from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON, JSONObject
from xp.plugins import entries, make_plugin
from xp.runs.records.folder import LOG, RECORD
from xp.runs.records.record import Record, State

GROUP = "xp.executors"


class JobState(StrEnum):
    """How a submitted job stands, as its executor sees it."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    BLOCKED = "blocked"
    """A job it needs failed: it will not be started."""

    @property
    def ended(self) -> bool:
        """True if nothing more will happen to the job in this submission."""
        return self not in (JobState.WAITING, JobState.RUNNING)


def by_record(record: Record) -> JobState:
    """How a job stands as its own record (and heartbeat) says."""
    if record.state is State.RUNNING:
        return JobState.RUNNING if record.alive else JobState.INTERRUPTED
    if record.state is State.PENDING:
        return JobState.INTERRUPTED if record.interrupted else JobState.WAITING
    return {State.DONE: JobState.DONE, State.FAILED: JobState.FAILED}.get(record.state, JobState.INTERRUPTED)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One frozen job for an executor: its folder holds all the rest."""

    folder: Path
    needs: tuple[Path, ...] = ()
    """Folders of jobs of the same submission that must be done first."""
    always: bool = False
    """Start when the needed jobs have ended, done or not."""
    stage: str = ""
    resources: JSONObject = field(default_factory=dict[str, JSON])
    handle: str = ""
    """Handle of the job from an earlier submission: it is queued or at work, so it is waited for and not started."""


class Leftover(TypedDict):
    """A thing that an experiment has left on another machine, or a host that could not be asked (kind `fault`)."""

    kind: str
    host: str
    path: str
    bytes: int
    running: bool
    """Whether a job at work uses it."""
    remove: Callable[[], int]
    """Removes it and gives the bytes that it took."""
    line: NotRequired[str]
    """Of a `fault`: why the host gave no answer."""


class Executor(ABC):
    """Runs frozen jobs. A handle is text that names a job to this executor from any process.

    A subclass writes `submit`, `poll` and `cancel`; where its handles are not the folders of the jobs also `states` and
    `log`. All the rest answers for jobs that run with the submitting process and write down themselves how they stand.
    """

    name: str
    """Its name in the entry-point group `xp.executors`."""
    detachable: bool = False
    """Whether jobs go on when the submitting process ends, so that another one can find them by their handles."""

    # -- what every executor writes

    @abstractmethod
    def submit(self, jobs: Sequence[Submission]) -> list[str]:
        """Take jobs over, in an order where needs come first; gives their handles at once."""

    @abstractmethod
    def poll(self, timeout_s: float = 0.0) -> dict[str, JobState]:
        """State of every submitted job by handle; waits up to `timeout_s` for something to change."""

    @abstractmethod
    def cancel(self, handles: Sequence[str] | None = None, *, grace_s: float = 30.0) -> None:
        """Ask jobs (default: all) to write a checkpoint and leave; end them when `grace_s` seconds have passed."""

    # -- what the default is right for where a handle is the job's folder

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """State of jobs that any process submitted; a handle that nothing is known of is left out.

        Default: what the jobs' records say.
        """
        folders = {handle: Path(handle) for handle in handles}
        return {handle: by_record(Record(folder / RECORD)) for handle, folder in folders.items()}

    def log(self, handle: str) -> Path:
        """Where the job's output is. Default: the log of its folder.

        Raises:
            UserError: nobody knows any more.
        """
        return Path(handle) / LOG

    # -- what only some have

    @property
    def n_jobs(self) -> int | None:
        """Jobs at a time; default None: as many as there are."""
        return None

    def check_available(self) -> None:
        """Refuse where nothing could be submitted from this machine. Default: it can be.

        Raises:
            UserError: so it is, and what to do.
        """
        return

    def submission_lock(self, experiment: Path) -> AbstractContextManager[None]:
        """The lock under which jobs of an experiment are planned, frozen and submitted, by one call at a time.

        Default: none; each job's folder has a lock of its own.
        """
        return nullcontext()

    def recover(self, experiment: Path) -> dict[Path, str]:
        """{folder: handle} of jobs that a process submitted which was killed before it could note their handles.

        Default: none, since a handle that is the job's folder is known before.
        """
        return {}

    def remarks(self, handles: Sequence[str]) -> dict[str, str]:
        """A few words on jobs' states, where there is something to say: what a job waits for, why it ended."""
        return {}

    def settle(self, jobs: Mapping[str, Path]) -> None:
        """Write into the records of {handle: folder} how jobs ended that could not say so themselves (killed, lost).

        Default: nothing, where whoever started a job sees its end.
        """
        return

    def cancel_jobs(self, jobs: Mapping[str, Path]) -> list[str]:
        """Cancel {handle: folder} from another process; gives the handles of all that was cancelled.

        Overridden where a job may have been submitted more than once. Default: `cancel`.
        """
        self.cancel(list(jobs))
        return list(jobs)

    def controller_is_running(self, experiment: Path) -> bool:
        """Whether the process is there that brings back an experiment's results. Default: True, none is needed."""
        return True

    def host_errors(self, experiment: Path) -> list[str]:
        """What keeps an experiment's hosts from work, a line for people each."""
        return []

    def survey(self, experiment: Path) -> list[Leftover]:
        """What an experiment has left on other machines (`xp task=gc`): one entry per thing, or silent host."""
        return []

    def close(self) -> None:
        """Give back workers and connections. Default: there are none."""
        return


def executor_named(name: str, **settings: object) -> Executor:
    """Make the executor that an installed package calls `name`.

    Raises:
        UserError: there is none of that name, two packages offer it, it has no such setting, or it is no `Executor`.
    """
    found = entries(GROUP)
    if name not in found:
        raise UserError(
            f"There is no executor '{name}'{did_you_mean(name, found)}. Installed: {join_names(sorted(found))}. "
            "Choose one with hydra/launcher=NAME; packages add more through the entry-point group xp.executors."
        )
    return make_plugin(GROUP, name, settings, key="hydra/launcher", prefix="hydra.launcher.", kind=Executor)
