"""What every way of running jobs offers: submit with dependencies, poll, cancel, logs.

Executors are found by name through the entry-point group `xp.executors`; a record names its executor, so that whoever
reads it can ask for the job's state without knowing where executors come from.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from xp.errors import UserError, did_you_mean, join_names
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
    """How a job stands as its own record (and sign of life) says."""
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
    resources: Mapping[str, Any] = field(default_factory=dict)
    handle: str = ""
    """Handle of the job from an earlier submission: it is queued or at work, so it is waited for and not started."""


class Executor(Protocol):
    """Runs frozen jobs. A handle is text that names a job to this executor from any process."""

    name: str
    detachable: bool
    """Whether jobs go on when the submitting process ends, so that another one can find them by their handles."""

    def submit(self, jobs: Sequence[Submission]) -> list[str]:
        """Take jobs over, in an order where needs come first; gives their handles at once."""
        ...

    def poll(self, timeout_s: float = 0.0) -> dict[str, JobState]:
        """State of every submitted job by handle; waits up to `timeout_s` for something to change."""
        ...

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """State of jobs that any process submitted; a handle that nothing is known of is left out."""
        ...

    def recover(self, experiment: Path) -> dict[Path, str]:
        """{folder: handle} of jobs that a process submitted which was killed before it could note their handles."""
        ...

    def remarks(self, handles: Sequence[str]) -> dict[str, str]:
        """A few words on jobs' states, where there is something to say: what a job waits for, why it ended."""
        ...

    def cancel(self, handles: Sequence[str] | None = None, *, grace_s: float = 30.0) -> None:
        """Ask jobs (default: all) to write a checkpoint and leave; end them when `grace_s` seconds have passed."""
        ...

    def log(self, handle: str) -> Path:
        """Where the job's output is."""
        ...

    def close(self) -> None:
        """Give back workers and connections."""
        ...


def executor_named(name: str, **settings: Any) -> Executor:
    """Make the executor that an installed package calls `name`.

    Raises:
        UserError: there is none of that name.
    """
    found = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if name not in found:
        raise UserError(
            f"There is no executor '{name}'{did_you_mean(name, found)}. Installed: {join_names(sorted(found))}. "
            "Choose one with hydra/launcher=NAME; packages add more through the entry-point group xp.executors."
        )
    made = found[name].load()
    takes = inspect.signature(made).parameters
    unknown = [key for key in settings if key not in takes]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        raise UserError(
            f"hydra.launcher.{unknown[0]}: hydra/launcher={name} has no such "
            f"setting{did_you_mean(unknown[0], takes)}. Its "
            f"settings: {join_names(takes)}"
        )
    return made(**settings)
