"""Ends from outside: jobs that somebody cancels through xp, and jobs that SLURM ended without a word of their own."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from hydra_plugins.xp_slurm_launcher import _commands, _later
from hydra_plugins.xp_slurm_launcher._handing_in import resolved, take_lock, withdraw
from hydra_plugins.xp_slurm_launcher._job_specs import SUBMISSIONS, JobSpec, job_specs, submission_lock
from hydra_plugins.xp_slurm_launcher._protocol import Heard
from hydra_plugins.xp_slurm_launcher._state import Seen, Watcher, heard
from xp.runs.execution.execute import mark_failed, mark_interrupted
from xp.runs.executors.protocol import JobState
from xp.runs.records.folder import RECORD
from xp.runs.records.record import Record, State, now

UNSAID = "SLURM says that the job has ended ({}), but it has not written down how (xp task=attach shows its log)"
MEMORY = (
    "The job used more memory than it had asked for and was killed. Give it more with hydra.launcher.mem_gb=GB, and "
    "run the same command with hydra.sweeper.retry_failed=true."
)


def settle(seen: Mapping[str, Seen], places: Mapping[str, Path], *, failed: bool = False) -> None:
    """Write down how jobs stand that SLURM has ended while they could write nothing: cancelled, killed, lost.

    A run that another process holds, that has a heartbeat or that has another handle by now is left alone.

    Args:
        seen: {handle: SLURM's word}.
        places: {handle: folder of the run}.
        failed: what is no interruption counts as failed (its own last words had time to arrive).
    """
    for handle, each in seen.items():
        if each.heard is Heard.OPEN and each.word:
            continue
        with ExitStack() as held:
            if not take_lock(places[handle], held):
                continue
            record = Record(places[handle] / RECORD)
            open_ = record.state in (State.PENDING, State.RUNNING) and not record.alive
            if open_ and record.get("handle") in (handle, None):
                _write_end(record, each, failed)


def _write_end(record: Record, seen: Seen, failed: bool) -> None:
    folder, begun = record.path.parent, record.state is State.RUNNING
    if seen.word == "CANCELLED":
        mark_interrupted(folder, seen.remark)
        by = f"cancelled{f' by {seen.by}' if seen.by else ''} (scancel)"
        Record(record.path).update(state=State.CANCELLED, reason=by, ended=now())
    elif failed and seen.word == "OUT_OF_MEMORY":
        mark_failed(folder, MEMORY)
    elif failed:
        mark_failed(folder, UNSAID.format(seen.remark or "it knows it no more"))
    elif begun and seen.state in (JobState.INTERRUPTED, None):
        mark_interrupted(folder, seen.remark or "SLURM does not know the job any more")


def cancel_jobs(folders: Sequence[Path], watcher: Watcher) -> list[str]:
    """Cancel every submission of these jobs that exists, and see to it that none of them starts later.

    Raises:
        SlurmUnavailable: SLURM does not answer.
    """
    told: list[str] = []
    for experiment in dict.fromkeys(folder.parent for folder in folders):
        if not (experiment / SUBMISSIONS).is_dir():
            continue
        mine = {folder for folder in folders if folder.parent == experiment}
        with submission_lock(experiment):
            resolved(experiment)
            told += _drop_waiting(experiment, mine)
            everything = job_specs(experiment)
            _withdraw_idle(everything, mine)
            told += _open_handles(everything, mine, watcher)
            _commands.scancel([handle for handle in told if "+" not in handle])
    return told


def _drop_waiting(experiment: Path, mine: set[Path]) -> list[str]:
    """Take jobs out of those that wait for room; the driver goes with the last of them. Gives their handles."""
    driver, waiting = _later.read_rest(experiment)
    handles = _later.handles_of(driver, waiting)
    left = [job for job in waiting if job.folder not in mine]
    if len(left) == len(waiting):
        return []
    _later.write_rest(experiment, driver, left)
    return [handles[job.folder] for job in waiting if job.folder in mine] + ([driver] if driver and not left else [])


def _withdraw_idle(everything: Sequence[JobSpec], mine: set[Path]) -> None:
    """Withdraw all submissions of jobs that are not at work: one taken late, or queued again, stays away."""
    for folder in mine:
        with ExitStack() as held:
            if take_lock(folder, held):
                withdraw((job_spec, job_spec.valid()[folder]) for job_spec in everything if folder in job_spec.valid())


def _open_handles(everything: Sequence[JobSpec], mine: set[Path], watcher: Watcher) -> list[str]:
    tokens = {job_spec.handle(index): job_spec.token for job_spec in everything if job_spec.job_id
              for index, folder in enumerate(job_spec.folders) if folder in mine}  # fmt: skip
    seen = watcher.look(list(tokens))
    return [handle for handle, each in seen.items() if heard(each, tokens[handle]) is Heard.OPEN]
