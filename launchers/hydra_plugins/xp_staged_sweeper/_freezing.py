"""Write the jobs of a sweep into their folders: several at a time, since each waits for the disk to be flushed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from xp.runs.jobs.frozen import Job, freeze
from xp.runs.records.folder import RECORD
from xp.runs.records.lock import Busy, locked
from xp.runs.records.record import Record, State

_AT_A_TIME = 8


def freeze_all(jobs: Sequence[Job], executor: str) -> None:
    """Freeze jobs for an executor, but for those that another sweep has begun or finished since the plan was made.

    Raises:
        UserError: a folder cannot be written.
    """
    if len(jobs) < _AT_A_TIME:
        for job in jobs:
            _freeze_unless_taken(job, executor)
        return
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        try:
            list(pool.map(_freeze_unless_taken, jobs, [executor] * len(jobs)))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _freeze_unless_taken(job: Job, executor: str) -> None:
    try:
        with locked(job.folder):
            record = Record(job.folder / RECORD)
            if record.state is State.DONE and record.get("identity") == job.identity and not job.always:
                return
            freeze(job, executor=executor)
    except Busy:
        return
