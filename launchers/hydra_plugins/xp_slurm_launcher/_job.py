"""On the node: run one frozen job (`run JOB_SPEC`), and then tell SLURM what became of it (`ended JOB_SPEC CODE`).

The step does the work and hears the signals; it writes a checkpoint and leaves. The shell around it then asks SLURM why
the job had to leave, and acts: a job near its time limit is queued again, a preempted one SLURM itself queues again, a
cancelled one stays away, one whose process was killed is given another try. The exit code is SLURM's verdict: 0 only
for a job that is done.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_plugins.xp_slurm_launcher._here import LEFT, attempt_of, handle, index
from hydra_plugins.xp_slurm_launcher._protocol import Attempt, Start, may_start
from xp.json_types import JSONObject

if TYPE_CHECKING:
    from xp.runs import Run

_AGAIN_S = (0.02, 0.05, 0.2, 1.0)
"""Pauses between attempts while another process holds the job's folder; the last one is repeated."""
_WITHDRAWN = "job {} was withdrawn: another submission has the run, or it was cancelled"
_VISIBLE_S = 60.0
"""How long what a needed job has written may take to be seen on another node."""
_FROZEN_S = 600.0
"""How long an attempt waits for a process that holds the run's folder and gives no heartbeat."""


def main(arguments: list[str]) -> int:
    """Gives the exit code."""
    from xp.errors import UserError

    verb, path = arguments[0], Path(arguments[1])
    try:
        if verb == "ended":
            from hydra_plugins.xp_slurm_launcher._post_job import ended

            return ended(path, int(arguments[2]))
        return _run(path)
    except UserError as error:
        print(f"xp: {error}", file=sys.stderr, flush=True)
        return error.exit_code


class Superseded(Exception):  # noqa: N818 - a state of affairs
    """Another submission has the job: this attempt leaves without a trace."""


class Waiting(Exception):  # noqa: N818 - a state of affairs
    """Another attempt has a heartbeat: this one waits for its end."""


def _run(path: Path) -> int:
    for number in (signal.SIGTERM, signal.SIGUSR2):  # asked to leave before the job has begun
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    os.environ["XP_HANDLE"], os.environ["XP_JOB_NODE"] = handle(), os.environ.get("SLURMD_NODENAME", "")
    from hydra_plugins.xp_slurm_launcher._guard import guarding
    from hydra_plugins.xp_slurm_launcher._job_specs import read_job_spec
    from xp.runs.execution import threads
    from xp.runs.execution.worker import task_named

    threads.settle()
    job_spec = read_job_spec(path)
    folder, settings = job_spec.folders[index()], job_spec.settings or {}
    hidden = json.loads(os.environ.pop("XP_JOB_SECRETS", "{}")).get(str(folder), {})
    if need := lacking(folder):
        print(f"xp: {folder.name} needs {need}, which is not done: it does not start", file=sys.stderr, flush=True)
        return LEFT
    entry = Entry(path, index(), folder, attempt_of(job_spec.token))
    try:
        with guarding(path, entry.index, folder, entry.attempt, _kill_wait_s(settings)) as guard:
            return _execute(entry, task_named(str(settings["target"])), hidden, guard.begin)
    except Superseded as reason:
        print(f"xp: {folder.name}: {reason}", file=sys.stderr, flush=True)
        return LEFT


def lacking(folder: Path, limit_s: float = _VISIBLE_S) -> str:
    """The name of a needed job that is not done; empty if there is none, or the job starts without.

    SLURM takes `afterok` of a job that it has forgotten for met, whatever became of that job.
    """
    from xp.errors import UserError
    from xp.runs.jobs.frozen import open_job
    from xp.runs.records.folder import RECORD
    from xp.runs.records.record import Record, State

    try:
        job = open_job(folder)
    except UserError:  # running it says what is wrong with it
        return ""
    began = time.monotonic()
    while True:
        missing = [need.folder.name for need in job.needs if Record(need.folder / RECORD).state is not State.DONE]
        if job.always or not missing:
            return ""
        if time.monotonic() - began >= limit_s:
            return missing[0]
        time.sleep(min(2.0, limit_s))


@dataclass(frozen=True)
class Entry:
    """One attempt at the door of its run."""

    path: Path
    """Its job spec."""
    index: int
    folder: Path
    attempt: Attempt

    def withdrawn(self) -> bool:
        """Whether this submission has lost the job, as far as a look can tell."""
        from hydra_plugins.xp_slurm_launcher._job_specs import read_job_spec

        return self.index in read_job_spec(self.path).withdrawn

    def admit(self, begin: Callable[[], None]) -> None:
        """Under the run's lock: work only if the job is still this submission's, and say that this attempt has it.

        Raises:
            Superseded, Waiting.
        """
        from hydra_plugins.xp_slurm_launcher._job_specs import job_specs, note_attempt, read_job_spec
        from xp.runs.records.folder import RECORD
        from xp.runs.records.record import Record

        mine = read_job_spec(self.path)
        others = job_specs(mine.experiment, naming=self.folder.name)
        later = [each for each in others if (each.number, each.token) > (mine.number, mine.token)]
        start = may_start(
            withdrawn=self.index in mine.withdrawn,
            latest=not any(self.folder in each.valid() for each in later),
            others_alive=Record(self.folder / RECORD).alive,
        )
        if start is Start.LEAVE:
            raise Superseded(_WITHDRAWN.format(handle()))
        if start is Start.WAIT:
            raise Waiting
        note_attempt(self.folder, self.attempt)
        begin()


def _kill_wait_s(settings: JSONObject) -> int:
    """The cluster's KillWait, as whoever submitted the job heard it."""
    said = settings.get("kill_wait_s")
    return int(said) if said and isinstance(said, int | float | str) else 30


def _execute(entry: Entry, task: "Callable[[Run], None]", hidden: dict[str, str], begin: Callable[[], None]) -> int:
    """Run the job; while another process works in its folder, wait for it as long as it has a heartbeat."""
    from xp.runs.execution.execute import execute, exit_code
    from xp.runs.records.heartbeat import beats
    from xp.runs.records.lock import Busy

    attempt, alive = 0, time.monotonic()
    while True:
        try:
            execute(entry.folder, task, echo=False, secrets=hidden, admit=lambda: entry.admit(begin))
            return exit_code(entry.folder)
        except (Busy, Waiting) as busy:
            if entry.withdrawn():
                raise Superseded(_WITHDRAWN.format(handle())) from None
            if beats(entry.folder):
                alive = time.monotonic()
            if time.monotonic() - alive > _FROZEN_S:
                raise Superseded(f"{busy} It has given no heartbeat for {_FROZEN_S:.0f} s.") from None
            time.sleep(_AGAIN_S[min(attempt, len(_AGAIN_S) - 1)])
            attempt += 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
