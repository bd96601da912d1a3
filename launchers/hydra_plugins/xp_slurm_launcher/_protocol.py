"""Who may submit a job, who may start it, who may write down its end, what a poll may conclude. Pure.

The facts are gathered under a lock, and what is decided is written before the lock is given up (docs/design.md, SLURM):
`before_submitting` under the experiment's lock and the run's, `may_start` and `may_settle` under the run's. A look
without a lock (`conclude`) starts nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from xp.runs.executors.protocol import JobState
from xp.runs.records.record import State

FORGOTTEN_S = 90.0
"""SLURM must have known nothing of a job for so long, and its heartbeat be as old, before it counts as gone. Network
file systems may show a file a minute late, accounting a job's end several seconds."""


class Heard(StrEnum):
    """What SLURM has to say of a submission."""

    OPEN = "open"
    """It waits or runs, or is in a state that this program does not know."""
    ENDING = "ending"
    """Its processes are gone or told to go; it may end, or be queued again."""
    ENDED = "ended"
    UNKNOWN = "unknown"
    """SLURM answers, and knows no such job (any more, or yet)."""
    SILENT = "silent"
    """SLURM does not answer."""


class Move(StrEnum):
    """What a controller does with a job that is to run."""

    NOTHING = "nothing"
    ADOPT = "adopt"
    SUBMIT = "submit"
    """Withdraw what was submitted for the job before, then submit it."""
    REFUSE = "refuse"
    """Nothing can be said while SLURM is silent."""


class Start(StrEnum):
    """What an attempt does that has a machine."""

    WORK = "work"
    LEAVE = "leave"
    """Another submission has the job."""
    WAIT = "wait"
    """Another attempt is at work: wait for its end."""


@dataclass(frozen=True)
class Attempt:
    """One incarnation of a job at SLURM: which submission, which SLURM job, how often queued again before."""

    token: str
    job_id: str
    restarts: int


def before_submitting(state: State, *, busy: bool, submitted: bool, heard: Heard) -> Move:
    """What to do with a job that the plan wants to run.

    Args:
        state: of its record.
        busy: another process holds the run's lock, or has a heartbeat.
        submitted: a submission of the job exists that was not withdrawn.
        heard: what SLURM says of that submission.
    """
    if busy:
        return Move.ADOPT
    if state is State.DONE:
        return Move.NOTHING
    if not submitted or heard in (Heard.ENDING, Heard.ENDED, Heard.UNKNOWN):
        return Move.SUBMIT
    return Move.ADOPT if heard is Heard.OPEN else Move.REFUSE


def may_start(*, withdrawn: bool, latest: bool, others_alive: bool) -> Start:
    """Whether an attempt that holds the run's lock may work.

    Args:
        withdrawn: its submission was withdrawn for this job.
        latest: no later submission of the job is known. (With locks a later one exists only if this one is withdrawn;
            where a file system has none, this decides between two controllers that did not see each other.)
        others_alive: the record says `running` and another process gives heartbeats. (With locks that process
            would hold the run's.)
    """
    if withdrawn or not latest:
        return Start.LEAVE
    return Start.WAIT if others_alive else Start.WORK


def may_settle(mine: Attempt, last: Attempt | None, *, withdrawn: bool) -> bool:
    """Whether the shell of an attempt may write down how the job stands: nobody has begun it after this attempt.

    Args:
        mine: the attempt that has left.
        last: the attempt that began last; None if none has.
        withdrawn: its submission was withdrawn for this job.
    """
    if withdrawn:
        return False
    return last is None or last.token != mine.token or (last.job_id == mine.job_id and last.restarts <= mine.restarts)


def conclude(
    state: State, *, alive: bool, heard: Heard, seen: JobState | None, final: bool, for_s: float, before: JobState
) -> JobState:
    """How a job stands, as far as a look can tell.

    Args:
        state: of its record.
        alive: its process or heartbeat says so.
        heard: what SLURM says of its submission.
        seen: SLURM's word as xp's; None for none, or for one this program does not know.
        final: SLURM will not take it up again by itself: it was cancelled, or what it needs can never be met.
        for_s: for how many seconds SLURM has said the same (`ENDED` or `UNKNOWN`), by this process's own clock.
        before: what was concluded last.
    """
    if state is State.DONE:
        return JobState.DONE
    if alive:
        return JobState.RUNNING
    if heard is Heard.SILENT:
        return before
    if heard in (Heard.OPEN, Heard.ENDING):
        return seen or before
    if state is State.FAILED:
        return JobState.FAILED
    if state is State.CANCELLED or final:
        return seen if seen is JobState.BLOCKED else JobState.INTERRUPTED
    if for_s < FORGOTTEN_S:  # it may be queued again, or what it wrote may not be visible yet
        return before
    return JobState.FAILED if heard is Heard.ENDED and seen is not JobState.INTERRUPTED else JobState.INTERRUPTED
