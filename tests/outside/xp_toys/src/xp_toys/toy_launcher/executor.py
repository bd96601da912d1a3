"""Where `xp.executors` finds the executor: a process for each job, at most `n_jobs` at a time."""

import time
from pathlib import Path

from xp.errors import UserError
from xp.runs.executors.job_process import BUSY, ended_state, start_job
from xp.runs.executors.protocol import Executor, JobState
from xp.runs.executors.queue import JobQueue

AGAIN_S = 1.0
"""How often to look again at a job that another process is at work on."""


class ToyExecutor(Executor):
    """A handle is the folder of its job; that one attempt alone is at work is seen to by the run's own lock."""

    name = "toy_processes"

    def __init__(self, n_jobs=2, grace_s=30.0):
        """Nothing is started before `poll`."""
        if isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or not 1 <= n_jobs <= 1024:
            raise UserError(f"hydra.launcher.n_jobs={n_jobs}: expected how many jobs run at a time, 1 to 1024.")
        self._most, self._grace_s, self._queue = n_jobs, grace_s, JobQueue()
        self._running, self._asked, self._later = {}, {}, {}

    @property
    def n_jobs(self):
        """Jobs at a time."""
        return self._most

    def submit(self, jobs):
        """Take jobs over."""
        self._queue.add(jobs)
        return [str(job.folder) for job in jobs]

    def poll(self, timeout_s=0.0):
        """Start what may start, and look how jobs have ended."""
        until = time.monotonic() + timeout_s
        before = dict(self._queue.states)
        while True:
            self._reap()
            for job in self._queue.ready():
                if len(self._running) < self._most and time.monotonic() >= self._later.get(job.folder, 0):
                    self._running[job.folder] = start_job(job.folder, grace_s=self._grace_s)
                    self._queue.set(job.folder, JobState.RUNNING)
            if self._queue.states != before or time.monotonic() >= until or self._queue.finished:
                return {str(folder): state for folder, state in self._queue.states.items()}
            time.sleep(0.05)

    def cancel(self, handles=None, *, grace_s=30.0):
        """Ask jobs to leave; `poll` ends those that are late."""
        folders = list(self._queue.states) if handles is None else [Path(handle) for handle in handles]
        self._queue.stop(folders)
        for folder in self._running.keys() & set(folders):
            self._running[folder].terminate()
            self._asked[folder] = time.monotonic() + grace_s

    def close(self):
        """End what is still at work: it can be resumed."""
        self.cancel(grace_s=0)
        while self._running:
            self.poll(0.1)

    def _reap(self):
        for folder, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                if time.monotonic() > self._asked.get(folder, float("inf")):
                    process.kill()
                continue
            del self._running[folder]
            if code == BUSY:
                self._later[folder] = time.monotonic() + AGAIN_S
                self._queue.set(folder, JobState.WAITING)
            else:
                self._queue.set(folder, ended_state(folder, code, was_asked=folder in self._asked))
