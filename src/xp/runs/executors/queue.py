"""Which job may start when: the bookkeeping of dependencies, for executors that have no scheduler of their own."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from xp.errors import UserError
from xp.runs.executors.protocol import JobState, Submission


class JobQueue:
    """Jobs and their needs. A job is ready as soon as the jobs *it* needs are done, whatever its stage still does.

    Raises:
        UserError: two jobs have one folder, or a job needs a folder that was not submitted before it.
    """

    def __init__(self, jobs: Sequence[Submission] = ()):
        self._jobs: dict[Path, Submission] = {}
        self._dependents: dict[Path, list[Path]] = {}
        self._waiting: dict[Path, None] = {}
        """Folders of waiting jobs in the order of submission: thousands of ended ones are not looked at again."""
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
            for need in job.needs:
                self._dependents.setdefault(need, []).append(job.folder)
            self._note(job.folder, JobState.WAITING)
            self._block([job.folder])

    def ready(self) -> list[Submission]:
        """Jobs that may start now, in the order of submission."""
        return [job for job in self._open_jobs() if self._fed(job)]

    def coming(self) -> list[Submission]:
        """Jobs that may start when what runs now is done, in the order of submission."""
        feeding = (JobState.RUNNING, JobState.DONE)
        return [
            job
            for job in self._open_jobs()
            if not self._fed(job) and all(self.states[need] in feeding for need in job.needs)
        ]

    def set(self, folder: Path, state: JobState) -> None:
        """Note a job's state; those that can never start any more become blocked."""
        self._note(folder, state)
        self._block([folder, *self._dependents.get(folder, ())])

    def stop(self, folders: Iterable[Path] | None = None) -> None:
        """Jobs that have not started will not: they count as interrupted."""
        stopped = [each for each in (self.states if folders is None else folders) if each in self._waiting]
        for folder in stopped:
            self._note(folder, JobState.INTERRUPTED)
        self._block([each for folder in stopped for each in self._dependents.get(folder, ())])

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

    def _open_jobs(self) -> Iterator[Submission]:
        return (self._jobs[folder] for folder in list(self._waiting))

    def _note(self, folder: Path, state: JobState) -> None:
        back = state is JobState.WAITING and folder in self.states and folder not in self._waiting
        self.states[folder] = state
        if state is JobState.WAITING:
            self._waiting[folder] = None
            if back:  # into its place among those that wait
                self._waiting = {each: None for each in self._jobs if each in self._waiting}
        else:
            self._waiting.pop(folder, None)

    def _block(self, folders: Iterable[Path]) -> None:
        """Find out which of these jobs, and of those that need them, can never start."""
        asked = list(folders)
        while asked:
            job = self._jobs[asked.pop()]
            if self.states[job.folder] is not JobState.WAITING or job.always:
                continue
            hopeless = [self.states[need] for need in job.needs if self.states[need] not in _HOPEFUL]
            if hopeless:
                stopped = all(state is JobState.INTERRUPTED for state in hopeless)
                self._note(job.folder, JobState.INTERRUPTED if stopped else JobState.BLOCKED)
                asked += self._dependents.get(job.folder, ())


_HOPEFUL = (JobState.WAITING, JobState.RUNNING, JobState.DONE)
