"""Jobs on this machine: a queue, a pool of warm workers, and what to do when one of them dies."""

import selectors
import time
from collections.abc import Sequence
from pathlib import Path

from hydra_plugins.xp_executor_base import _gpus, _machine
from hydra_plugins.xp_local_launcher import _seats
from hydra_plugins.xp_local_launcher._pool import Worker, cause_of_death
from xp.errors import UserError
from xp.runs.execution.execute import mark_failed, mark_interrupted
from xp.runs.executors.protocol import Executor, JobState, Submission
from xp.runs.executors.queue import JobQueue
from xp.runs.jobs.frozen import secrets_of
from xp.runs.records.folder import RECORD
from xp.runs.records.record import Record, State

_ENDS = {State.DONE: JobState.DONE, State.FAILED: JobState.FAILED, State.CANCELLED: JobState.FAILED,
         State.PENDING: JobState.INTERRUPTED}  # fmt: skip
_LOOK_AGAIN_S = 1.0
"""How often to look whether a job that another process works on has ended."""
_MOST_WORKERS = 1024


def _check(name: str, value: object, most: int, what: str) -> None:
    """Refuse what is no number of workers or threads: none at all would wait for ever."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(
            f"hydra.launcher.{name}={value!r}: expected a whole number from 1 to {most} ({what}). Leave it out, or "
            f"give hydra.launcher.{name}=2."
        )


class LocalExecutor(Executor):
    """A pool of warm workers. Nothing happens between calls: `poll` starts jobs and hears how they ended."""

    name = "local"

    def __init__(
        self,
        n_jobs: int | None = None,
        threads: int | None = None,
        grace_s: float = 30.0,
        gpu_used_max: float = _gpus.USED_MAX,
        target: str = "xp.__main__:run_task",
    ):
        """Make an empty pool.

        Args:
            n_jobs: workers at most; None: one per GPU, without GPUs two (one on a single core).
            threads: CPU threads of each worker; None: as a single run has, see `xp.runs.execution.threads`.
            grace_s: seconds that a job has for its last checkpoint when the controller is gone.
            gpu_used_max: a GPU of whose memory others use a larger share is not taken; 1 = take it.
            target: MODULE:FUNCTION that runs a `Run`.

        Raises:
            UserError: a number that makes no sense.
        """
        _check("n_jobs", n_jobs, _MOST_WORKERS, "workers; null = one per GPU, without GPUs two")
        _check("threads", threads, 4096, "CPU threads of a worker; null = a fair share of the cores")
        for name, value in (("grace_s", grace_s), ("gpu_used_max", gpu_used_max)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"hydra.launcher.{name}={value!r}: expected a number of 0 or more.")
        devices = _gpus.devices()
        self._n_jobs = n_jobs or _machine.default_workers([device.name for device in devices])
        self._seats = _seats.Seats(devices, self._n_jobs, gpu_used_max)
        self._threads, self._grace_s, self._target = threads, grace_s, target
        self._queue = JobQueue()
        self._workers: dict[int, Worker] = {}
        self._elsewhere: dict[Path, float] = {}
        """Jobs that another process works on, and when to look again."""
        self._kill_at: float | None = None
        self._may_warm_up = True
        self._closed = False

    @property
    def n_jobs(self) -> int:
        """Workers at most."""
        return self._n_jobs

    def submit(self, jobs: Sequence[Submission]) -> list[str]:
        """Take jobs over; the handle of a job is its folder."""
        self._queue.add(jobs)
        return [str(job.folder) for job in jobs]

    def poll(self, timeout_s: float = 0.0) -> dict[str, JobState]:
        """Hear from the workers, start what may start, wait up to `timeout_s` for news."""
        self._fill()
        self._warm_up()
        self._hear(timeout_s)
        self._overdue()
        self._fill()
        return {str(folder): state for folder, state in self._queue.states.items()}

    def cancel(self, handles: Sequence[str] | None = None, *, grace_s: float = 30.0) -> None:
        """Ask jobs to leave. What has not started will not start; what is late is killed by `poll`."""
        folders = [Path(handle) for handle in handles] if handles is not None else list(self._queue.states)
        self._queue.stop(folders)
        for worker in self._workers.values():
            if worker.job in folders:
                worker.ask_to_leave()
        self._kill_at = time.monotonic() + grace_s

    def close(self) -> None:
        """End the workers; a job still at work is killed and can be resumed. Nothing is started any more."""
        self._closed = True
        for number in list(self._workers):
            worker = self._workers.pop(number)
            if worker.job is not None:
                worker.asked_at = time.monotonic()
                worker.kill()
            job = worker.job
            code = worker.end()
            if job is not None:
                self._died(worker, job, code)
        self._seats.close(self._experiments)

    @property
    def _experiments(self) -> list[Path]:
        return list(dict.fromkeys(folder.parent for folder in self._queue.states))

    def host_errors(self, experiment: Path) -> list[str]:
        """What the experiment's controller waits for, a line each."""
        return _seats.waits(experiment)

    def _fill(self) -> None:
        """Give ready jobs to idle workers, hiring up to `n_jobs` of them."""
        jobs = [] if self._closed else [job for job in self._queue.ready() if self._free_to_start(job.folder)]
        for number, job in enumerate(jobs):
            worker = self._idle(len(jobs) - number)
            if worker is not None and worker.start(job.folder, secrets_of(job.folder)):
                self._queue.set(job.folder, JobState.RUNNING)

    def _free_to_start(self, folder: Path) -> bool:
        """Whether no other process works on the job; if one did and finished it, take its result over."""
        look_at = self._elsewhere.get(folder)
        if look_at is None:
            return True
        if time.monotonic() < look_at:
            return False
        record = Record(folder / RECORD)
        if record.alive:
            self._elsewhere[folder] = time.monotonic() + _LOOK_AGAIN_S
            return False
        del self._elsewhere[folder]
        if record.state is State.DONE:
            self._queue.set(folder, JobState.DONE)
            return False
        return True

    def _idle(self, waiting: int) -> Worker | None:
        """A worker that is up and free; if there is none, one more is hired unless enough are on their way."""
        for worker in self._workers.values():
            if worker.job is None and worker.ready:
                return worker
        coming = sum(not worker.ready for worker in self._workers.values())
        if len(self._workers) < self._n_jobs and coming < waiting:
            self._hire()
        return None

    def _warm_up(self) -> None:
        """While a stage is at work, let idle workers import what the jobs behind it will need."""
        coming = self._queue.coming() if self._may_warm_up and not self._closed else []
        workers = list(self._workers.values())
        if len(workers) < min(self._n_jobs, len(coming)) and all(worker.ready for worker in workers):
            self._hire()
        for worker in workers:
            if coming and worker.ready and worker.job is None and not worker.warmed:
                worker.warm_up(coming[0].folder)

    def _hire(self) -> None:
        number = next(n for n in range(self._n_jobs) if n not in self._workers)
        names, inherited = [], ()
        if self._seats.devices:
            seat = self._seats.take(number, self._experiments)
            if seat is None:
                return
            names, inherited = [seat[0].name], (seat[1],)
        environment = _machine.worker_environment(0, self._seats.each, names, self._threads)
        self._workers[number] = Worker(self._target, environment, self._grace_s, inherited)

    def _hear(self, timeout_s: float) -> None:
        if self._elsewhere or self._seats.waiting or self._kill_at is not None:
            timeout_s = min(timeout_s, _LOOK_AGAIN_S)
        if not self._workers:
            if self._elsewhere or self._seats.waiting:
                time.sleep(timeout_s)
            return
        with selectors.DefaultSelector() as selector:
            for number, worker in self._workers.items():
                selector.register(worker, selectors.EVENT_READ, number)
            heard = [key.data for key, _ in selector.select(timeout_s)]
        heard += [number for number, worker in self._workers.items() if worker.gone and number not in heard]
        for number in heard:
            self._attend(number)

    def _attend(self, number: int) -> None:
        worker = self._workers[number]
        reports, alive = worker.reports()
        for report in reports:
            worker.ready = True
            if "folder" in report:
                self._ended(Path(report["folder"]), report)
                worker.job = worker.asked_at = None
        if not alive:
            del self._workers[number]
            self._seats.leave(number)
            job, code = worker.job, worker.end()
            if job is not None:
                self._died(worker, job, code)
            elif worker.ready:
                self._may_warm_up = False  # it died while it had nothing to do but this; the job itself will say why
            else:
                words = worker.last_words() or "no words"
                raise UserError(
                    f"A worker process {cause_of_death(code)} before its first job: {words}. Check that the Python "
                    "environment is whole: python -m hydra_plugins.xp_local_launcher._worker"
                )

    def _ended(self, folder: Path, report: dict[str, str]) -> None:
        if report["state"] == "busy":
            self._elsewhere[folder] = time.monotonic() + _LOOK_AGAIN_S
            self._queue.set(folder, JobState.WAITING)
            return
        self._queue.set(folder, _ENDS[State(report["state"])])

    def _died(self, worker: Worker, job: Path, code: int) -> None:
        """Write down what became of a job whose worker is gone."""
        if worker.asked_at is not None:
            mark_interrupted(job, f"its process {cause_of_death(code)} while it was asked to leave")
            self._queue.set(job, JobState.INTERRUPTED)
            return
        words = worker.last_words()
        message = f"the job's process {cause_of_death(code)}" + (f". Its last words: {words}" if words else "")
        mark_failed(job, message)
        self._queue.set(job, JobState.FAILED)

    def _overdue(self) -> None:
        """Kill what was asked to leave and is still there after the grace time."""
        if self._kill_at is None or time.monotonic() < self._kill_at:
            return
        self._kill_at = None
        for worker in self._workers.values():
            if worker.job is not None and worker.asked_at is not None:
                worker.kill()
