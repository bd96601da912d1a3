"""Which job may start when: the bookkeeping of dependencies, for executors that have no scheduler of their own."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from xp.errors import UserError
from xp.runs.executor import JobState, Submission


class JobQueue:
    """Jobs and their needs. A job is ready as soon as the jobs *it* needs are done, whatever its stage still does.

    Raises:
        UserError: two jobs have one folder, or a job needs a folder that was not submitted before it.
    """

    def __init__(self, jobs: Sequence[Submission] = ()):
        self._jobs: dict[Path, Submission] = {}
        self.states: dict[Path, JobState] = {}
        self.add(jobs)

    def add(self, jobs: Sequence[Submission]) -> None:
        """Append jobs, needs before those that need them."""
        for job in jobs:
            if job.folder in self._jobs:
                raise UserError(f"Two jobs would share the folder {job.folder}. Give them different names.")
            unknown = [need for need in job.needs if need not in self._jobs]
            if unknown:
                raise UserError(f"{job.folder} needs {unknown[0]}, which was not submitted before it.")
            self._jobs[job.folder] = job
            self.states[job.folder] = JobState.WAITING
        self._block()

    def ready(self) -> list[Submission]:
        """Jobs that may start now, in the order of submission."""
        waiting = (job for job in self._jobs.values() if self.states[job.folder] is JobState.WAITING)
        return [job for job in waiting if self._fed(job)]

    def coming(self) -> list[Submission]:
        """Jobs that may start when what runs now is done, in the order of submission."""
        feeding = (JobState.RUNNING, JobState.DONE)
        waiting = (job for job in self._jobs.values() if self.states[job.folder] is JobState.WAITING)
        return [
            job for job in waiting if not self._fed(job) and all(self.states[need] in feeding for need in job.needs)
        ]

    def set(self, folder: Path, state: JobState) -> None:
        """Note a job's state; those that can never start any more become blocked."""
        self.states[folder] = state
        self._block()

    def stop(self, folders: Iterable[Path] | None = None) -> None:
        """Jobs that have not started will not: they count as interrupted."""
        for folder in folders if folders is not None else list(self.states):
            if self.states[folder] is JobState.WAITING:
                self.states[folder] = JobState.INTERRUPTED
        self._block()

    @property
    def finished(self) -> bool:
        """True when every job has ended."""
        return all(state.ended for state in self.states.values())

    @property
    def open(self) -> int:
        """How many jobs have not ended."""
        return sum(not state.ended for state in self.states.values())

    def _fed(self, job: Submission) -> bool:
        states = [self.states[need] for need in job.needs]
        return all(state.ended if job.always else state is JobState.DONE for state in states)

    def _block(self) -> None:
        for job in self._jobs.values():  # needs come first, so one pass reaches everything downstream
            if self.states[job.folder] is not JobState.WAITING or job.always:
                continue
            hopeless = [self.states[need] for need in job.needs if self.states[need] not in _HOPEFUL]
            if hopeless:
                stopped = all(state is JobState.INTERRUPTED for state in hopeless)
                self.states[job.folder] = JobState.INTERRUPTED if stopped else JobState.BLOCKED


_HOPEFUL = (JobState.WAITING, JobState.RUNNING, JobState.DONE)
