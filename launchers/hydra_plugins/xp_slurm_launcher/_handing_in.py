"""Jobs on their way to SLURM, under the experiment's lock: decide, withdraw, try out, submit what has room."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra_plugins.xp_slurm_launcher import _commands, _later
from hydra_plugins.xp_slurm_launcher._arrays import Array, Room, arrays, dependency
from hydra_plugins.xp_slurm_launcher._commands import SlurmUnavailable
from hydra_plugins.xp_slurm_launcher._job_specs import (
    JobSpec,
    job_specs,
    new_job_spec,
    next_number,
    submission_lock,
    valid_job_specs,
)  # fmt: skip
from hydra_plugins.xp_slurm_launcher._protocol import Heard, Move, before_submitting
from hydra_plugins.xp_slurm_launcher._refusals import NoRoom
from hydra_plugins.xp_slurm_launcher._sbatch import Sbatch
from hydra_plugins.xp_slurm_launcher._state import heard, job_named
from hydra_plugins.xp_slurm_launcher._trial import try_out
from xp.atomic import write_text
from xp.errors import UserError
from xp.runs.executors.protocol import Submission
from xp.runs.records.folder import RECORD
from xp.runs.records.json_io import explain_write_errors
from xp.runs.records.lock import Busy, locked
from xp.runs.records.record import Record, State

_LEAVING = (Heard.ENDING, Heard.ENDED)
_LOCKS = 100
"""Runs' locks that are held at a time."""


@dataclass
class Submitter:
    """One call that submits: what of its jobs is new, and in which order that goes to SLURM."""

    sbatch: Sbatch
    _numbers: dict[Path, int] = field(default_factory=dict)

    def submit(self, jobs: Sequence[Submission]) -> dict[Path, str]:
        """{folder: handle} of all jobs: submitted now, or by an earlier call, or kept until there is room.

        Raises:
            SlurmUnavailable: SLURM does not answer.
            UserError: SLURM refuses a request for good; nothing of this call is left in its queue then.
        """
        with ExitStack() as held:
            for experiment in sorted({job.folder.parent for job in jobs}):
                held.enter_context(submission_lock(experiment))
                self._numbers[experiment] = next_number(experiment) - 1
            drivers = _later.drivers(self._numbers)
            handles = {job.folder: job.handle for job in jobs if _is_slurms(job.handle)}
            adopted, fresh = self._decided([job for job in jobs if job.folder not in handles])
            handles |= adopted | self._open_needs(jobs)
            fresh, blocked = _with_live_needs(fresh, handles)
            handles |= {folder: f"blocked+{number}" for number, folder in enumerate(blocked)}
            groups = arrays(fresh, self.sbatch.resources, _commands.largest_array() if len(fresh) > 1 else 1)
            try_out(
                groups, self.sbatch.watcher, lambda one, job_spec: self.sbatch.script(one, job_spec, "xp-try", None)
            )
            self._hand_in(groups, handles)
            _later.prune_rest(drivers)
        return handles

    def _decided(self, jobs: Sequence[Submission]) -> tuple[dict[Path, str], list[Submission]]:
        """Handles of what is not to be submitted, and the jobs that are: nothing else is valid for them any more."""
        known: dict[Path, tuple[JobSpec, int]] = {}
        for experiment in dict.fromkeys(job.folder.parent for job in jobs):
            known |= resolved(experiment)
        told = self._heard([job.folder for job in jobs], known)
        told |= self._let_leave([folder for folder, word in told.items() if word in _LEAVING], known)
        handles: dict[Path, str] = {}
        fresh: list[Submission] = []
        for start in range(0, len(jobs), _LOCKS):
            part = jobs[start : start + _LOCKS]
            with ExitStack() as held:
                free = {job.folder for job in part if take_lock(job.folder, held)}
                moves = [(job, _move(job, job.folder not in free, known, told)) for job in part]
                _refuse_silence(moves)
                chosen = [job for job, move in moves if move is Move.SUBMIT]
                withdraw(known[job.folder] for job in chosen if job.folder in known)
                _drop([known[job.folder] for job in chosen if job.folder in known and told[job.folder] in _LEAVING])
            fresh += chosen
            handles |= {job.folder: _earlier(job, known) for job, move in moves if move is not Move.SUBMIT}
        return handles, fresh

    def _let_leave(self, folders: Sequence[Path], known: Mapping[Path, tuple[JobSpec, int]]) -> dict[Path, Heard]:
        """Wait for jobs that SLURM is ending just now (KillWait at most), so that they can be submitted anew."""
        limit = time.monotonic() + _commands.cluster_number("KillWait", 30) + 5 if folders else 0.0
        left = [folder for folder in folders if _busy(folder)]
        if left:
            print(f"xp: waiting for {left[0].name}, which is being ended", file=sys.stderr)
        while left and time.monotonic() < limit:
            time.sleep(0.3)
            left = [folder for folder in left if _busy(folder)]
        return self._heard(folders, known) if folders else {}

    def _open_needs(self, jobs: Sequence[Submission]) -> dict[Path, str]:
        """Handles of unfinished jobs that these need and that an earlier call submitted."""
        mine = {job.folder for job in jobs}
        needs = {need for job in jobs for need in job.needs if need not in mine and not _done(need)}
        known: dict[Path, tuple[JobSpec, int]] = {}
        for experiment in {need.parent for need in needs}:
            known |= valid_job_specs(experiment)
        told = self._heard(sorted(needs), known)
        return {need: known[need][0].handle(known[need][1]) for need, word in told.items()
                if need in known and word is Heard.OPEN}  # fmt: skip

    def _heard(self, folders: Sequence[Path], known: Mapping[Path, tuple[JobSpec, int]]) -> dict[Path, Heard]:
        """What SLURM says of the submissions that are valid for these jobs, and of handles without a job spec."""
        asked = {folder: (job_spec.handle(index), job_spec.token) for folder in folders if folder in known
                 for job_spec, index in [known[folder]]}  # fmt: skip
        for folder in folders:
            noted = str(Record(folder / RECORD).get("handle") or "")
            if folder not in known and _is_slurms(noted):
                asked[folder] = (noted, "")
        try:
            seen = self.sbatch.watcher.look([handle for handle, _ in asked.values() if handle])
        except SlurmUnavailable:
            return dict.fromkeys(asked, Heard.SILENT)
        return {folder: heard(seen.get(handle), token) for folder, (handle, token) in asked.items()}

    def _hand_in(self, groups: Sequence[Array], handles: dict[Path, str]) -> None:
        """One call of sbatch per array, needs first; what has no room goes to a job that hands it in later."""
        waiting, room, sizes = list(groups), Room(), dict[str, int]()
        done: list[tuple[JobSpec, Array]] = []
        keeper: _later.Keeper | None = None
        try:
            while waiting and not room.full:
                group, rest = waiting[0].split(room.size(len(waiting[0].jobs)))
                try:
                    job_spec = self._submit(group, dependency(group, handles, sizes))
                except NoRoom as limit:
                    room.refused(len(group.jobs))
                    keeper = keeper or _later.Keeper(self.sbatch, str(limit))
                    waiting = keeper.reserve(done, waiting, handles)
                    continue
                done.append((job_spec, group))
                room.taken(len(group.jobs))
                sizes[str(job_spec.job_id)] = len(group.jobs)
                handles |= {job.folder: job_spec.handle(index) for index, job in enumerate(group.jobs)}
                waiting = [*([rest] if rest.jobs else []), *waiting[1:]]
        except SlurmUnavailable:
            raise
        except UserError:
            take_back([job_spec for job_spec, _ in done])
            if keeper is not None:
                keeper.abandon([job for each in waiting for job in each.jobs])
            raise
        if keeper is not None:
            handles |= keeper.settle([job for each in waiting for job in each.jobs])

    def _submit(self, array: Array, needs: str | None) -> JobSpec:
        """Write the job spec and the script, call sbatch, note the id.

        Raises:
            NoRoom: a limit on jobs in the queue.
            SlurmUnavailable: SLURM does not answer; whether it has the jobs is found out by whoever calls next.
        """
        names = [job.folder.name for job in array.jobs]
        kill_s = _commands.cluster_number("KillWait", 30)
        number = self._numbers[array.experiment] = 1 + self._numbers[array.experiment]
        settings = {**self.sbatch.settings, "kill_wait_s": kill_s}
        job_spec = new_job_spec(array.experiment, number, array.jobs[0].stage or names[0], names, settings).write()
        script = job_spec.path.with_suffix(".sh")
        try:
            text = self.sbatch.script(array, job_spec.path, job_spec.token, needs)
            with explain_write_errors(script.parent):
                write_text(script, text)
            job_id = self.sbatch.submit(script, job_spec.token, array)
        except UserError as error:
            if not isinstance(error, SlurmUnavailable):
                job_spec.path.unlink()
                script.unlink(missing_ok=True)
            raise
        return replace(job_spec, job_id=job_id).write()


def resolved(experiment: Path) -> dict[Path, tuple[JobSpec, int]]:
    """`valid_job_specs`, after SLURM was asked for those whose id nobody has heard; only under the experiment's lock.

    Raises:
        SlurmUnavailable: SLURM does not answer.
    """
    for job_spec in job_specs(experiment):
        if job_spec.job_id is None and job_spec.valid() and (job_id := job_named(job_spec.token)) is not None:
            replace(job_spec, job_id=job_id).write()
    return valid_job_specs(experiment)


def withdraw(places: Iterable[tuple[JobSpec, int]]) -> None:
    """Take from job specs the right to start some of their jobs; only under the experiment's lock and those runs'."""
    by_spec: dict[Path, tuple[JobSpec, set[int]]] = {}
    for job_spec, index in places:
        by_spec.setdefault(job_spec.path, (job_spec, set()))[1].add(index)
    for job_spec, indices in by_spec.values():
        job_spec.without(frozenset(indices))


def take_back(submitted: Sequence[JobSpec]) -> None:
    """Cancel job specs of a call that is refused half-way."""
    for job_spec in submitted:
        job_spec.without(frozenset(range(len(job_spec.names))))
    _commands.scancel([str(job_spec.job_id) for job_spec in submitted])


def take_lock(folder: Path, held: ExitStack) -> bool:
    """Take a run's lock for as long as `held` is open; False if another process works there."""
    try:
        held.enter_context(locked(folder))
    except Busy:
        return False
    return True


def _busy(folder: Path) -> bool:
    with ExitStack() as held:
        return not take_lock(folder, held)


def _drop(places: Sequence[tuple[JobSpec, int]]) -> None:
    """Keep SLURM from queueing again what was withdrawn."""
    _commands.scancel([handle for job_spec, index in places if (handle := job_spec.handle(index))])


def _move(job: Submission, busy: bool, known: Mapping[Path, tuple[JobSpec, int]], told: Mapping[Path, Heard]) -> Move:
    record = Record(job.folder / RECORD)
    submitted = job.folder in known or job.folder in told
    return before_submitting(
        record.state, busy=busy or record.alive, submitted=submitted, heard=told.get(job.folder, Heard.UNKNOWN)
    )


def _refuse_silence(moves: Sequence[tuple[Submission, Move]]) -> None:
    silent = [job for job, move in moves if move is Move.REFUSE]
    if silent:
        raise SlurmUnavailable(
            f"SLURM does not answer, so it cannot be told whether {silent[0].folder.name} waits or runs there already. "
            "Nothing was submitted; the same command goes on when SLURM answers. Look with: scontrol ping"
        )


def _earlier(job: Submission, known: Mapping[Path, tuple[JobSpec, int]]) -> str:
    """The handle of a job that an earlier call submitted; where nothing has one, its record says how it stands."""
    if job.folder in known:
        job_spec, index = known[job.folder]
        if handle := job_spec.handle(index):
            return handle
    return str(Record(job.folder / RECORD).get("handle") or f"elsewhere+{job.folder.name}")


def _with_live_needs(jobs: Sequence[Submission], handles: Mapping[Path, str]) -> tuple[list[Submission], list[Path]]:
    """Jobs with those of their needs that are still to end, and the folders of jobs whose needs can never be met.

    Jobs that were kept until there is room are handed in later than the jobs they need, which may have ended by then.
    """
    coming = {folder for folder, handle in handles.items() if _is_slurms(handle)} | {job.folder for job in jobs}
    kept: list[Submission] = []
    blocked: list[Path] = []
    for job in jobs:
        live = tuple(need for need in job.needs if need in coming and need not in blocked and not _done(need))
        lost = [need for need in job.needs if need not in live and not _done(need)]
        if lost and not job.always:
            blocked.append(job.folder)
        else:
            kept.append(replace(job, needs=live))
    return kept, blocked


def _done(folder: Path) -> bool:
    return Record(folder / RECORD).state is State.DONE


def _is_slurms(handle: str) -> bool:
    """Whether a handle is SLURM's own: JOB or ARRAY_INDEX; jobs that wait for room have another."""
    return handle.replace("_", "").isdigit()
