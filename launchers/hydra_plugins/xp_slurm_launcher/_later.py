"""Jobs that SLURM has no room for yet (MaxSubmitJobs and its kin): kept in a file, handed in by a small job.

`EXPERIMENT/.slurm/rest.json` holds them. The small job (the driver) starts when one of the experiment's jobs has ended,
hands in what has room, leaves another of its kind for the rest, and ends: no machine is held while nothing can be done.
The same command, issued again, and a waiting call do the same.
"""

import os
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from hydra_plugins.xp_slurm_launcher import _commands
from hydra_plugins.xp_slurm_launcher._arrays import Array
from hydra_plugins.xp_slurm_launcher._commands import SlurmUnavailable
from hydra_plugins.xp_slurm_launcher._job_specs import SUBMISSIONS, JobSpec, valid_job_specs
from hydra_plugins.xp_slurm_launcher._protocol import Heard
from hydra_plugins.xp_slurm_launcher._refusals import NoRoom
from hydra_plugins.xp_slurm_launcher._sbatch import Sbatch
from xp.atomic import write_json, write_text
from xp.errors import UserError
from xp.foreign.json_file import read_fields
from xp.json_types import section
from xp.runs.executors.protocol import Submission
from xp.runs.records.folder import RECORD
from xp.runs.records.json_io import explain_write_errors
from xp.runs.records.lock import Busy, locked
from xp.runs.records.record import Record, State

REST = "rest.json"
STAGE = "submit"
"""The name under which `hydra.launcher.stages` gives the driver resources of its own."""
SETTINGS = "XP_SLURM_SETTINGS"
"""Environment variable that tells the driver the launcher's settings."""
_PAUSE_S = 5
"""Seconds between the end of a job and the driver's start, at least."""
_PAUSE_BLIND_S = 60
"""The same where the driver has no job to wait for, since others fill the queue."""
_WATCHED = 60
"""Jobs of which one must end before the driver starts; the first to be handed in are the first to end."""


def read_rest(experiment: Path) -> tuple[str, list[Submission]]:
    """(id of the driver, empty if there is none; jobs that wait for room), as the file says.

    Raises:
        UserError: the file is damaged.
    """
    path = experiment / SUBMISSIONS / REST
    if not path.exists():
        return "", []
    fields = read_fields(path, "the jobs that wait for room in SLURM's queue")
    jobs = []
    for each in fields.list_of_objects("jobs"):
        names = [each.text("name"), *each.texts("needs")]
        if any(name != Path(name).name or name in ("", ".", "..") or "\0" in name for name in names):
            raise each.refusal("name", "names of folders beside .slurm")
        folders = [experiment / name for name in names]
        resources = section(each.content, "resources")
        stage, always = each.text("stage", ""), each.flag("always", False)
        jobs.append(
            Submission(folder=folders[0], needs=tuple(folders[1:]), always=always, stage=stage, resources=resources)
        )
    driver = fields.text("driver", "")
    return (driver if driver.isdigit() else ""), jobs


def write_rest(experiment: Path, driver: str, jobs: Sequence[Submission]) -> None:
    """Store which jobs wait for room and who hands them in; only under the experiment's lock."""
    path = experiment / SUBMISSIONS / REST
    if not jobs:
        path.unlink(missing_ok=True)
        return
    content = [
        {"name": job.folder.name, "needs": [need.name for need in job.needs], "always": job.always, "stage": job.stage,
         "resources": dict(job.resources)}
        for job in jobs
    ]  # fmt: skip
    with explain_write_errors(path.parent):
        write_json(path, {"driver": driver, "jobs": content})


def drivers(experiments: Iterable[Path]) -> dict[Path, str]:
    """{experiment: the driver that hands in its jobs}, where there is one."""
    found: dict[Path, str] = {}
    for experiment in experiments:
        with suppress(UserError):
            driver = read_rest(experiment)[0]
            if driver:
                found[experiment] = driver
    return found


def prune_rest(before: Mapping[Path, str]) -> None:
    """Forget jobs that are submitted by now, and cancel drivers that others have replaced or that nobody needs.

    Args:
        before: the drivers before this call; its experiments' locks are held.
    """
    for experiment, driver in before.items():
        with suppress(UserError):
            now, jobs = read_rest(experiment)
            submitted = valid_job_specs(experiment)
            left = [job for job in jobs if job.folder not in submitted]
            write_rest(experiment, now, left)
            if (now != driver or not left) and driver != os.environ.get("SLURM_JOB_ID"):
                _commands.scancel([driver])


def handles_of(driver: str, jobs: Sequence[Submission]) -> dict[Path, str]:
    """Handles of jobs that wait for room: `DRIVER+PLACE`, or `later+PLACE` where no driver could be submitted."""
    return {job.folder: f"{driver or 'later'}+{number}" for number, job in enumerate(jobs)}


class Keeper:
    """Keeps what has no room during one call: makes sure that somebody hands it in, whatever becomes of the call."""

    def __init__(self, sbatch: Sbatch, limit: str):
        self._sbatch, self._limit = sbatch, limit
        self._driver = ""
        self._tried = False
        self._saved: set[Path] = set()

    def reserve(self, done: list[tuple[JobSpec, Array]], waiting: list[Array], handles: dict[Path, str]) -> list[Array]:
        """Submit the driver while there is still room for it; gives what is left to submit.

        If the queue is full to the last place, a job that this call has just submitted makes way for the driver.
        """
        if self._tried:
            return waiting
        self._tried = True
        self._driver = self._submit(waiting)
        if not self._driver and (freed := _freed(done)) is not None:
            handles.pop(freed.folder)
            waiting = [Array((freed,), self._sbatch.resources(freed)), *waiting]
            limit = time.monotonic() + _commands.cluster_number("KillWait", 30) + 10
            while not (driver := self._submit(waiting)) and time.monotonic() < limit:
                time.sleep(1.0)  # what was started meanwhile takes a while to go
            self._driver = driver
        self._save([job for each in waiting for job in each.jobs])
        return waiting

    def settle(self, left: Sequence[Submission]) -> dict[Path, str]:
        """Store what is left, let the driver wait for the first end of a job, and say so; gives the handles."""
        if not left:
            self._finish()
            return {}
        experiments = sorted({job.folder.parent for job in left})
        for experiment in experiments:
            self._save(self._with_others(experiment, left))
        told = f"xp: SLURM has no room for more of your jobs now ({self._limit})"
        if self._driver:
            self._let_wait(experiments)
            told += (
                f". {len(left)} wait for it; SLURM's job {self._driver} hands them in as others end, also without this "
                "command."
            )
        else:
            told += (
                f", not even for the small one that would hand in the other {len(left)} later. Issue the same command "
                "again when there is room (it hands in what is missing), or let it wait: hydra.launcher.detach=false"
            )
        print(told, file=sys.stderr)
        return handles_of(self._driver, left)

    def _finish(self) -> None:
        """Everything of this call had room in the end: the driver goes, unless an earlier call left jobs for it."""
        others = {experiment: self._with_others(experiment, []) for experiment in self._saved}
        for experiment, jobs in others.items():
            write_rest(experiment, self._driver, jobs)
        waiting = [experiment for experiment, jobs in others.items() if jobs]
        if self._driver and waiting:
            self._let_wait(waiting)
        elif self._driver:
            _commands.scancel([self._driver])

    def abandon(self, waiting: Sequence[Submission]) -> None:
        """Nothing of this call is to be handed in later: a request was refused for good."""
        for experiment in {job.folder.parent for job in waiting}:
            write_rest(experiment, "", [])
        if self._driver:
            _commands.scancel([self._driver])

    def _with_others(self, experiment: Path, left: Sequence[Submission]) -> list[Submission]:
        """What is left of this call, and what an earlier one left that this one knows nothing of."""
        mine = [job for job in left if job.folder.parent == experiment]
        known = {job.folder for job in mine} | valid_job_specs(experiment).keys()
        with suppress(UserError):
            mine += [job for job in read_rest(experiment)[1] if job.folder not in known]
        return mine

    def _save(self, jobs: Sequence[Submission]) -> None:
        for experiment in {job.folder.parent for job in jobs}:
            self._saved.add(experiment)
            write_rest(experiment, self._driver, [job for job in jobs if job.folder.parent == experiment])

    def _submit(self, waiting: Sequence[Array]) -> str:
        """Submit the driver, to start in ten minutes if nobody tells it better; its id, empty if there is no room."""
        experiment = waiting[0].experiment
        everything = [job for each in waiting for job in each.jobs]
        for resources in self._sbatch.driver_resources():
            token = f"xp-{STAGE}-{secrets.token_hex(4)}"
            script = experiment / SUBMISSIONS / f"{token}.sh"
            array = Array(tuple(everything), resources)
            write_text(script, self._sbatch.driver_text(array, script.parent, token, "now+600"))
            try:
                return self._sbatch.submit(script, token, array, {SETTINGS: self._sbatch.given_text})
            except NoRoom:
                script.unlink()
                return ""
            except SlurmUnavailable:
                raise
            except UserError:  # this request is refused: the next one asks for what the jobs themselves get
                script.unlink()
        return ""

    def _let_wait(self, experiments: Sequence[Path]) -> None:
        """Let the driver start soon after any of the experiment's open jobs has ended."""
        watched = self._open(experiments)[:_WATCHED]
        change = [f"JobId={self._driver}", f"StartTime=now+{_PAUSE_S if watched else _PAUSE_BLIND_S}"]
        if watched:
            change.append("Dependency=" + "?".join(f"afterany:{handle}" for handle in watched))
        answer = _commands.call("scontrol", "update", *change)
        if answer.code:
            print(f"xp: job {self._driver} will look for room in ten minutes ({answer.message})", file=sys.stderr)

    def _open(self, experiments: Sequence[Path]) -> list[str]:
        """Handles of the experiments' jobs that wait or run, the oldest first."""
        places = {folder: place for each in experiments for folder, place in valid_job_specs(each).items()}
        unfinished = [job_spec.handle(index) for folder, (job_spec, index) in places.items()
                      if Record(folder / RECORD).state in (State.PENDING, State.RUNNING)]  # fmt: skip
        seen = self._sbatch.watcher.look([handle for handle in unfinished if handle])
        return [handle for handle, each in seen.items() if each.heard is Heard.OPEN]


def _freed(done: list[tuple[JobSpec, Array]]) -> Submission | None:
    """Withdraw and cancel the last job that was submitted, unless it has begun; gives it."""
    if not done:
        return None
    job_spec, array = done[-1]
    index = max(job_spec.valid().values(), default=-1)
    if index < 0:
        return None
    with ExitStack() as held:
        try:
            held.enter_context(locked(job_spec.folders[index]))
        except Busy:
            return None
        if Record(job_spec.folders[index] / RECORD).state is not State.PENDING:
            return None
        done[-1] = (job_spec.without(frozenset([index])), array)
    _commands.scancel([job_spec.handle(index)])  # with --state=PENDING, SLURM 22.05 cancels all of a waiting array
    return array.jobs[index]
