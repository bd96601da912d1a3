"""Jobs on a SLURM cluster: submitted at once with their dependencies, and found again from any process."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from hydra_plugins.xp_slurm_launcher import _commands, _endings, _later
from hydra_plugins.xp_slurm_launcher._commands import SlurmUnavailable, main_id
from hydra_plugins.xp_slurm_launcher._handing_in import Submitter, resolved
from hydra_plugins.xp_slurm_launcher._job_specs import SUBMISSIONS, submission_lock
from hydra_plugins.xp_slurm_launcher._options import count
from hydra_plugins.xp_slurm_launcher._protocol import Heard, conclude
from hydra_plugins.xp_slurm_launcher._resources import ByStage, Resources, resources_of
from hydra_plugins.xp_slurm_launcher._sbatch import Sbatch
from hydra_plugins.xp_slurm_launcher._state import Seen, Watcher
from xp.errors import UserError
from xp.json_types import JSON
from xp.runs.executors.protocol import Executor, JobState, Submission, by_record
from xp.runs.executors.submitted import note_handle
from xp.runs.records.folder import RECORD
from xp.runs.records.record import Record, State

_ASK_EVERY_S = 2.0
_SILENT_S = 600.0
_ROOM_EVERY_S = 30.0


class SlurmExecutor(Executor):
    """Submits frozen jobs to SLURM.

    A handle is SLURM's own id, JOB or ARRAY_INDEX; of a job that waits for room in the queue it is DRIVER+PLACE, where
    DRIVER is the job that will hand it in (`later+PLACE` without one), and blocked+PLACE of one that never will be.
    """

    name = "slurm"
    detachable = True

    def __init__(
        self,
        *,
        stages: ByStage | None = None,
        warn_s: int = 120,
        max_running: int | None = None,
        max_requeues: int = 20,
        retries: int = 1,
        python: str | None = None,
        target: str = "xp.__main__:run_task",
        grace_s: float = 30.0,
        **resources: JSON,
    ):
        """Take the settings; nothing is asked of SLURM yet.

        Args:
            stages: {stage: {resource: value}} where a stage wants other resources than the rest; `submit` is the small
                job that hands in what SLURM had no room for.
            warn_s: seconds before the time limit at which a job is asked to write a checkpoint and is queued again.
            max_running: how many jobs of one array may run at the same time; None: no limit.
            max_requeues: how often a job may be queued again after a time limit.
            retries: how often a job whose process was killed or crashed is queued again before it counts as failed.
            python: interpreter on the nodes; None: the one of this process.
            target: MODULE:FUNCTION that runs a `Run`.
            grace_s: not used: the cluster's KillWait is the time for a last checkpoint.
            resources: see `Resources`.
        """
        self._base = Resources().with_(resources, "hydra.launcher")
        self._stages = dict(stages or {})
        self._max_running = count(max_running, 1, "hydra.launcher.max_running", optional=True)
        self._watcher = Watcher()
        self.hidden: dict[str, dict[str, str]] = {}
        sbatch = Sbatch(
            resources=self._resources,
            driver_resources=self._driver_resources,
            watcher=self._watcher,
            settings={
                "max_requeues": count(max_requeues, 0, "hydra.launcher.max_requeues"),
                "retries": count(retries, 0, "hydra.launcher.retries"),
                "target": target,
            },
            given={
                "stages": self._stages, "warn_s": warn_s, "max_running": max_running, "max_requeues": max_requeues,
                "retries": retries, "python": python, "target": target, **resources,
            },
            warn_s=count(warn_s, 0, "hydra.launcher.warn_s") or 0,
            max_running=self._max_running,
            python=python,
            hidden=self.hidden,
        )  # fmt: skip
        self._submitter = Submitter(sbatch)
        self._folders: dict[str, Path] = {}
        self._jobs: dict[Path, Submission] = {}
        self._states: dict[str, JobState] = {}
        self._since: dict[str, tuple[Heard, float]] = {}
        self._asked_at = self._heard_at = self._room_at = -_SILENT_S

    @property
    def n_jobs(self) -> int | None:
        """Jobs at a time; None: as many as the cluster has room for."""
        return self._max_running

    def check_available(self) -> None:
        """Refuse where nothing could be submitted from this machine.

        Raises:
            UserError: there is no sbatch here, it finds no configuration, or SLURM does not answer.
        """
        _commands.require("sbatch")
        answer = _commands.call("scontrol", "ping", limit_s=10.0)
        if answer.code:
            raise SlurmUnavailable(f"SLURM's controller does not answer: {answer.out.strip() or answer.message}")

    def submission_lock(self, experiment: Path) -> AbstractContextManager[None]:
        """The experiment's lock (`_job_specs`), which the job that hands in the rest takes as well."""
        return submission_lock(experiment)

    def submit(self, jobs: Sequence[Submission]) -> list[str]:
        """One call of sbatch per array, needs first; every kind of request is tried out before the first is submitted.

        What an earlier call has submitted is adopted, whatever the caller knew of it; what has no room in SLURM's queue
        is handed in later, by a small job.

        Raises:
            UserError: SLURM cannot be reached or refuses a request.
        """
        handles = self._submitter.submit(jobs)
        self._folders |= {handles[job.folder]: job.folder for job in jobs}
        self._jobs |= {job.folder: job for job in jobs}
        return [handles[job.folder] for job in jobs]

    def recover(self, experiment: Path) -> dict[Path, str]:
        """Handles of waiting and running jobs that their records do not name: who submitted them was killed.

        Every submission leaves its job spec, with a name of its own, before sbatch is called: SLURM is asked for it.
        """
        if not (experiment / SUBMISSIONS).is_dir():
            return {}
        with submission_lock(experiment):
            handles = {folder: job_spec.handle(index) for folder, (job_spec, index) in resolved(experiment).items()}
            driver, waiting = _later.read_rest(experiment)
            if driver:
                handles |= {k: v for k, v in _later.handles_of(driver, waiting).items() if k not in handles}
        lacking = {folder: handle for folder, handle in handles.items()
                   if handle and Record(folder / RECORD).get("handle") != handle}  # fmt: skip
        states = self.states(list(lacking.values()))
        return {folder: handle for folder, handle in lacking.items()
                if handle in states and not states[handle].ended}  # fmt: skip

    def poll(self, timeout_s: float = 0.0) -> dict[str, JobState]:
        """States of the submitted jobs; SLURM is asked every two seconds at most."""
        if time.monotonic() - self._asked_at < _ASK_EVERY_S:
            time.sleep(max(0.0, min(timeout_s, self._asked_at + _ASK_EVERY_S - time.monotonic())))
        if time.monotonic() - self._asked_at >= _ASK_EVERY_S or not self._states:
            self._ask()
        return dict(self._states)

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """What SLURM says; a job that it does not know is left out."""
        found = {handle: JobState.BLOCKED for handle in handles if handle.startswith("blocked+")}
        for handle, seen in self._look(handles).items():
            state = (JobState.WAITING if seen.heard is Heard.OPEN else None) if "+" in handle else seen.state
            if state is not None:
                found[handle] = state
        return found

    def remarks(self, handles: Sequence[str]) -> dict[str, str]:
        """SLURM's reason for each job's state: Resources, Priority, Dependency, BeginTime, timeout ..."""
        return {
            handle: f"for room in the queue (job {main_id(handle)} hands it in)" if "+" in handle else each.remark
            for handle, each in self._look(handles).items()
        }

    def settle(self, jobs: Mapping[str, Path]) -> None:
        """Write down how jobs stand that SLURM ended without a word of their own: {handle: folder}."""
        _endings.settle(self._look(jobs), jobs)

    def cancel(self, handles: Sequence[str] | None = None, *, grace_s: float = 30.0) -> None:
        """Cancel jobs. Running ones get SIGTERM and the cluster's KillWait for a checkpoint; others never start."""
        asked = list(self._folders) if handles is None else list(handles)
        own = {handle: self._folders[handle] for handle in asked if handle in self._folders}
        if own:
            self.cancel_jobs(own)
        _commands.scancel([handle for handle in asked if handle not in self._folders and "+" not in handle])

    def cancel_jobs(self, jobs: Mapping[str, Path]) -> list[str]:
        """Cancel every submission of these jobs that exists, noted or not; gives the handles that SLURM was told."""
        return _endings.cancel_jobs(list(jobs.values()), self._watcher)

    def log(self, handle: str) -> Path:
        """What the job's shell and srun printed; the job's own words are in the log.txt of its folder."""
        fields = _commands.job_fields(main_id(handle) if "+" in handle else handle)
        if not fields.get("StdOut"):
            raise UserError(
                f"SLURM does not know job {handle} any more. Its own words are in the log.txt of its folder."
            )
        return Path(fields["StdOut"])

    def _resources(self, job: Submission) -> Resources:
        return resources_of(job.stage, self._base, job.resources, self._stages)

    def _driver_resources(self) -> list[Resources]:
        """For the job that hands in others: one processor for minutes; where that is refused, what the jobs get."""
        own = self._stages.get(_later.STAGE) or {}
        small = {"gpus": None, "cpus": 1, "mem_gb": 1, "time_min": 30, "extra": {}, **own}
        keep = {key: getattr(self._base, key) for key in ("partition", "account", "qos", "constraint", "setup")}
        return [Resources(**keep).with_(small, f"hydra.launcher.stages.{_later.STAGE}"), self._base]

    def _look(self, handles: Sequence[str] | Mapping[str, object]) -> dict[str, Seen]:
        """What SLURM says of jobs; of a job that waits for room: of the one that will hand it in."""
        real = {handle: main_id(handle) if "+" in handle else handle for handle in handles if handle[:1].isdigit()}
        seen = self._watcher.look(list(dict.fromkeys(real.values())))
        return {handle: seen[asked] for handle, asked in real.items() if asked in seen}

    def _current(self, handle: str) -> str:
        """The handle that a job has by now: one that waited for room has got another."""
        if "+" not in handle:
            return handle
        noted = Record(self._folders[handle] / RECORD).get("handle")
        return str(noted or handle)

    def _ask(self) -> None:
        open_ = {handle: self._current(handle) for handle in self._folders
                 if not self._states.get(handle, JobState.WAITING).ended}  # fmt: skip
        self._asked_at = time.monotonic()
        if self._heard_at < 0:
            self._heard_at = self._asked_at
        try:
            seen: dict[str, Seen] | None = self._look(list(open_.values()))
            self._make_room(seen or {}, open_)
        except SlurmUnavailable as silence:
            if time.monotonic() - self._heard_at > _SILENT_S:
                raise UserError(f"{silence} The jobs go on; the same command adopts them.") from None
            seen = None
        else:
            self._heard_at = self._asked_at
        for handle, current in open_.items():
            self._states[handle] = self._concluded(handle, current, seen)

    def _concluded(self, handle: str, current: str, seen: dict[str, Seen] | None) -> JobState:
        folder, each = self._folders[handle], (seen or {}).get(current)
        if current.startswith("blocked+"):
            return JobState.BLOCKED
        word = Heard.SILENT if seen is None else Heard.UNKNOWN if each is None else each.heard
        if "+" in current:  # it waits for room; without a driver this call hands it in
            state = Record(folder / RECORD).state
            return JobState.WAITING if state is State.PENDING else by_record(Record(folder / RECORD))
        if word is not Heard.SILENT and self._since.get(handle, (None, 0.0))[0] is not word:
            self._since[handle] = (word, self._asked_at)
        record = Record(folder / RECORD)
        state = conclude(
            record.state, alive=record.alive, heard=word, seen=each.state if each else None,
            final=each is not None and each.final, for_s=self._asked_at - self._since.get(handle, (word, 0.0))[1],
            before=self._states.get(handle, JobState.WAITING),
        )  # fmt: skip
        if state.ended and record.state not in (State.DONE, State.FAILED):
            _endings.settle({current: each or Seen("")}, {current: folder}, failed=state is JobState.FAILED)
        return state

    def _make_room(self, seen: Mapping[str, Seen], open_: Mapping[str, str]) -> None:
        """Hand in what waits for room and has nobody who does that, every half a minute."""
        left = [self._jobs[self._folders[handle]] for handle, current in open_.items()
                if "+" in current and not current.startswith("blocked+")
                and Record(self._folders[handle] / RECORD).state is State.PENDING
                and not (current in seen and seen[current].heard is Heard.OPEN)]  # fmt: skip
        if not left or time.monotonic() - self._room_at < _ROOM_EVERY_S:
            return
        self._room_at = time.monotonic()
        for folder, handle in self._submitter.submit(left).items():
            note_handle(folder, self.name, handle)
