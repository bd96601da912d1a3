"""Jobs on a SLURM cluster: submitted at once with their dependencies, and found again from any process."""

import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra_plugins.xp_slurm_launcher import _commands
from hydra_plugins.xp_slurm_launcher._arrays import Array, arrays, dependency
from hydra_plugins.xp_slurm_launcher._refusals import refusal
from hydra_plugins.xp_slurm_launcher._resources import Resources, resources_of
from hydra_plugins.xp_slurm_launcher._script import batch_script, order_text
from hydra_plugins.xp_slurm_launcher._state import Watcher
from xp.errors import UserError
from xp.runs.atomic import write_json, write_text
from xp.runs.execute import mark_failed
from xp.runs.executor import JobState, Submission, by_record
from xp.runs.folder import RECORD
from xp.runs.frozen import secrets_of
from xp.runs.reading import read_json, writing
from xp.runs.record import Record, State

SUBMISSIONS = ".slurm"
"""Folder of an experiment with one order, script and output per submission."""
SECRETS = "XP_JOB_SECRETS"
"""Environment variable that carries secrets of a job's configuration: no file holds them."""
_ASK_EVERY_S = 2.0
_SILENT_S = 600.0


class SlurmExecutor:
    """Submits frozen jobs to SLURM. A handle is SLURM's own id: JOB or ARRAY_INDEX."""

    name = "slurm"
    detachable = True

    def __init__(
        self,
        *,
        stages: Mapping[str, Any] | None = None,
        warn_s: int = 120,
        max_running: int | None = None,
        max_requeues: int = 20,
        retries: int = 1,
        python: str | None = None,
        target: str = "xp.__main__:run_task",
        grace_s: float = 30.0,
        **resources: Any,
    ):
        """Take the settings; nothing is asked of SLURM yet.

        Args:
            stages: {stage: {resource: value}} where a stage wants other resources than the rest.
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
        self._warn_s, self._max_running, self._python = warn_s, max_running, python
        self._settings = {"max_requeues": max_requeues, "retries": retries, "target": target}
        self._watcher = Watcher()
        self._folders: dict[str, Path] = {}
        self._states: dict[str, JobState] = {}
        self._asked_at = self._heard_at = -_SILENT_S

    @property
    def n_jobs(self) -> int | None:
        """Jobs at a time; None: as many as the cluster has room for."""
        return self._max_running

    def submit(self, jobs: Sequence[Submission]) -> list[str]:
        """One call of sbatch per array, needs first; every kind of request is tried out before the first is submitted.

        Raises:
            UserError: SLURM cannot be reached or refuses a request.
        """
        groups = arrays(jobs, self._resources, _commands.largest_array() if len(jobs) > 1 else 1)
        for number, group in enumerate(groups):
            if group.resources not in [before.resources for before in groups[:number]]:
                self._try_out(group)
        handles = {job.folder: job.handle for job in jobs if job.handle}
        sizes: dict[str, int] = {}
        for group in groups:
            job_id = self._submit(group, dependency(group, handles, sizes))
            sizes[job_id] = len(group.jobs)
            handles |= {job.folder: handle for job, handle in zip(group.jobs, group.handles(job_id))}
        self._folders |= {handles[job.folder]: job.folder for job in jobs}
        return [handles[job.folder] for job in jobs]

    def recover(self, experiment: Path) -> dict[Path, str]:
        """Handles of waiting and running jobs that a killed process submitted without having noted them.

        Every submission leaves its order, with a name of its own, before sbatch is called: SLURM is asked for it.
        """
        found: dict[Path, str] = {}
        for order in sorted((experiment / SUBMISSIONS).glob("*.json"), key=lambda path: path.stat().st_mtime):
            content = read_json(order)
            folders = [Path(folder) for folder in content["jobs"]]
            unnoted = [folder for folder in folders if not Record(folder / RECORD).get("handle")]
            if not unnoted:
                continue
            job_id = content["job_id"] or _job_named(content["token"])
            if job_id is None:
                continue
            handles = [job_id] if len(folders) == 1 else [f"{job_id}_{number}" for number in range(len(folders))]
            states = self.states(handles)
            found |= {folder: handle for folder, handle in zip(folders, handles)
                      if folder in unnoted and handle in states and not states[handle].ended}  # fmt: skip
        return found

    def poll(self, timeout_s: float = 0.0) -> dict[str, JobState]:
        """States of the submitted jobs; SLURM is asked every two seconds at most."""
        if time.monotonic() - self._asked_at < _ASK_EVERY_S:
            time.sleep(max(0.0, min(timeout_s, self._asked_at + _ASK_EVERY_S - time.monotonic())))
        if time.monotonic() - self._asked_at >= _ASK_EVERY_S or not self._states:
            self._ask()
        return dict(self._states)

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """What SLURM says; a job that it does not know is left out."""
        seen = self._watcher.look(handles)
        return {handle: each.state for handle, each in seen.items() if each.state is not None}

    def remarks(self, handles: Sequence[str]) -> dict[str, str]:
        """SLURM's reason for each job's state: Resources, Priority, Dependency, BeginTime, timeout ..."""
        return {handle: each.remark for handle, each in self._watcher.look(handles).items()}

    def cancel(self, handles: Sequence[str] | None = None, *, grace_s: float = 30.0) -> None:
        """Cancel jobs. Running ones get SIGTERM and the cluster's KillWait for a checkpoint; others never start."""
        _commands.scancel(list(self._folders) if handles is None else list(handles))

    def log(self, handle: str) -> Path:
        """What the job's shell and srun printed; the job's own words are in the log.txt of its folder."""
        fields = _commands.job_fields(handle)
        if not fields.get("StdOut"):
            raise UserError(
                f"SLURM does not know job {handle} any more. Its own words are in the log.txt of its folder."
            )
        return Path(fields["StdOut"])

    def close(self) -> None:
        """Nothing to give back: the jobs go on."""

    def _resources(self, job: Submission) -> Resources:
        return resources_of(job.stage, self._base, job.resources, self._stages)

    def _submit(self, array: Array, needs: str | None) -> str:
        """Write the order and the script, call sbatch, note the id."""
        folder = array.experiment / SUBMISSIONS
        token = f"xp-{array.jobs[0].stage or array.jobs[0].folder.name}-{secrets.token_hex(4)}"
        order, script = folder / f"{token}.json", folder / f"{token}.sh"
        content = order_text(array, token, self._settings)
        with writing(folder):
            write_json(order, content)
            write_text(script, self._script(array, order, token, needs))
        answer = _commands.call("sbatch", "--parsable", str(script), environment=_environment(array))
        if answer.code:
            order.unlink()
            raise refusal(answer, array.resources)
        job_id = answer.out.strip().partition(";")[0]
        write_json(order, {**content, "job_id": job_id})
        return job_id

    def _script(self, array: Array, order: Path, name: str, needs: str | None) -> str:
        return batch_script(
            array, order, name=name, dependency=needs, warn_s=self._warn_s, max_running=self._max_running,
            python=self._python,
        )  # fmt: skip

    def _try_out(self, array: Array) -> None:
        """Let SLURM check a request without submitting it."""
        folder = array.experiment / SUBMISSIONS
        script = folder / f".try-{secrets.token_hex(4)}.sh"
        with writing(folder):
            write_text(script, self._script(array, script, "xp", None), durable=False)
        try:
            answer = _commands.call("sbatch", "--test-only", str(script))
        finally:
            script.unlink()
        if answer.code:
            raise refusal(answer, array.resources)

    def _ask(self) -> None:
        open_ = [handle for handle in self._folders if not self._states.get(handle, JobState.WAITING).ended]
        self._asked_at = time.monotonic()
        if self._heard_at < 0:
            self._heard_at = self._asked_at
        try:
            seen = self.states(open_)
        except _commands.Silent as silence:
            if time.monotonic() - self._heard_at > _SILENT_S:
                raise UserError(f"{silence} The jobs go on; the same command adopts them.") from None
            seen = {handle: self._states.get(handle, JobState.WAITING) for handle in open_}
        else:
            self._heard_at = self._asked_at
        for handle in open_:
            self._states[handle] = _settled(self._folders[handle], seen.get(handle))


def _settled(folder: Path, seen: JobState | None) -> JobState:
    """A job's state from its record, where it has written an end; else SLURM's word; else its sign of life."""
    record = Record(folder / RECORD)
    if record.state in (State.DONE, State.FAILED):
        return by_record(record)
    if seen is None:
        state = by_record(record)
        return state if state is JobState.RUNNING else JobState.INTERRUPTED
    if seen in (JobState.DONE, JobState.FAILED):  # ended without a word of its own
        mark_failed(
            folder, "SLURM says that the job has ended, but it has not written down how (xp task=attach shows its log)"
        )
        return JobState.FAILED
    return seen


def _job_named(token: str) -> str | None:
    out = _commands.call("squeue", "-h", "-a", "--me", "-o", "%F", f"--name={token}").out.split()
    return out[0] if out else None


def _environment(array: Array) -> dict[str, str]:
    hidden = {str(job.folder): secrets_of(job.folder) for job in array.jobs if secrets_of(job.folder)}
    environment = _commands.clean_environment()
    if hidden:
        environment[SECRETS] = json.dumps(hidden)
    return environment | {"PYTHONUNBUFFERED": os.environ.get("PYTHONUNBUFFERED", "1")}
