"""After a job's step has left without being done: why, and what now. Runs in the job's own shell, on its node.

The record is made right first ("running" would be a lie), then SLURM is asked, with patience: its controller may be
away just now. Whatever happens, the job is queued again or its end is written down.
"""

import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path

from hydra_plugins.xp_slurm_launcher import _commands
from hydra_plugins.xp_slurm_launcher._commands import SlurmUnavailable, patiently
from hydra_plugins.xp_slurm_launcher._here import LEFT, attempt_of, handle, index
from hydra_plugins.xp_slurm_launcher._job_specs import last_attempt, read_job_spec
from hydra_plugins.xp_slurm_launcher._protocol import may_settle
from hydra_plugins.xp_slurm_launcher._state import Watcher
from xp.json_types import JSONObject
from xp.runs.execution.execute import mark_failed, mark_interrupted
from xp.runs.execution.progress import last_step
from xp.runs.records.folder import RECORD
from xp.runs.records.lock import Busy, locked
from xp.runs.records.record import Record, State, now

_MEMORY = re.compile(r"memory limit|oom.kill|out of memory", re.IGNORECASE)
_PATIENCE_S = 3600.0
"""How long SLURM's controller is waited for."""


class Why(StrEnum):
    """Why a job's step has left."""

    TIME = "time limit"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    DIED = "died"
    FAILED = "failed"


def ended(path: Path, code: int) -> int:
    """Write down how the job stands and queue it again if that is right; gives the exit code of the SLURM job."""
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):  # meant for the step; this has work to do yet
        signal.signal(number, signal.SIG_IGN)
    job_spec = read_job_spec(path)
    place, settings = index(), dict(job_spec.settings or {})
    folder = job_spec.folders[place]
    if code == LEFT:
        if place in job_spec.withdrawn:  # else SLURM has queued the same job again, and that attempt has the run
            _stay_away()
        return code
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder))
        except Busy:
            print(f"xp: another attempt is at work in {folder}: nothing to write down", flush=True)
            return code
        withdrawn = place in read_job_spec(path).withdrawn
        if not may_settle(attempt_of(job_spec.token), last_attempt(folder), withdrawn=withdrawn):
            return code
        record = Record(folder / RECORD)
        if record.state in (State.DONE, State.FAILED, State.CANCELLED):
            return 0 if record.state is State.DONE else code
        begun = record.state is State.RUNNING
        mark_interrupted(folder, f"left with exit code {code}")
        again = _settle(folder, settings, code, begun)
    if again:
        _requeue(folder)
    return code


def _settle(folder: Path, limits: JSONObject, code: int, killed: bool) -> bool:
    """Write down why the job has left; gives whether it is to be queued again by this shell."""
    try:
        fields = patiently(lambda: _commands.job_fields(os.environ["SLURM_JOB_ID"]), _PATIENCE_S, _waits)
    except SlurmUnavailable as silence:
        Record(folder / RECORD).update(reason=f"left with exit code {code}; {silence}"[:300])
        return False
    record = Record(folder / RECORD)
    why = reason(record, code, fields, killed=killed)
    message = verdict(why, limits, _requeues(record), last_step(folder), code, _output(fields))
    if message:
        mark_failed(folder, message)
        return False
    if why is Why.CANCELLED:
        record.update(state=State.CANCELLED, reason=_by_whom(), ended=now())
        return False
    noted = [*_requeues(record), {"time": now(), "reason": str(why), "step": last_step(folder)}]
    record.update(state=State.PENDING, interrupted=bool(record.get("attempts")), reason=str(why), requeues=noted)
    return why is not Why.PREEMPTED


def _requeues(record: Record) -> list[JSONObject]:
    """What was noted when the job was queued again: time, reason and step, the oldest first."""
    noted = record.get("requeues")
    return [each for each in noted if isinstance(each, Mapping)] if isinstance(noted, list) else []


def reason(record: Record, code: int, fields: Mapping[str, str], *, killed: bool = False) -> Why:
    """Why the step has left, by SLURM's own word.

    Args:
        record: the job's record.
        code: exit code of the step; 128 + signal for a signal.
        fields: `scontrol show job`.
        killed: the step's process was killed: its record still said `running`.
    """
    if int(fields.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return Why.PREEMPTED  # SLURM has put it back into the queue already
    if fields.get("PreemptTime", "None") not in ("None", "Unknown", ""):
        return Why.PREEMPTED
    if fields.get("Reason") == "TimeLimit" or fields.get("JobState") == "TIMEOUT":
        return Why.TIME
    if fields.get("JobState") in ("CANCELLED", "COMPLETING"):
        return Why.CANCELLED
    if code == 128 + signal.SIGUSR2 or (code == 128 + signal.SIGTERM and not killed and not record.interrupted):
        return Why.TIME
    if record.state is State.PENDING and record.interrupted and not killed and code > 128:  # left in good order
        return Why.TIME
    return Why.DIED if code > 128 else Why.FAILED


def verdict(
    why: Why, limits: JSONObject, requeues: Sequence[JSONObject], step: int | None, code: int, output: str
) -> str | None:
    """Why the job shall not be queued again, as its error; None if it may be (or was cancelled)."""
    before = [each for each in requeues if each["reason"] == why]
    if why is Why.TIME:
        if before and before[-1].get("step") == step:
            return (
                "No step was made between two time limits, so another attempt would end the same way. Give the job "
                "more time (hydra.launcher.time_min=MINUTES) or more frequent checkpoints, and run the same command "
                "with hydra.sweeper.retry_failed=true."
            )
        if len(before) >= _limit(limits, "max_requeues"):
            limit = f"hydra.launcher.max_requeues={limits['max_requeues']}"
            return f"The time limit was reached {len(before) + 1} times ({limit})."
    if why is Why.DIED:
        if _MEMORY.search(output):
            return (
                "The job used more memory than it had asked for and was killed. Give it more with "
                "hydra.launcher.mem_gb=GB, and run the same command with hydra.sweeper.retry_failed=true. SLURM's "
                f"words: {output}"
            )
        if len(before) >= _limit(limits, "retries"):
            return f"The job's process was killed ({_death(code)}). Its last words: {output or 'none'}"
    if why is Why.FAILED:
        return f"The job ended with exit code {code} before it began. Its last words: {output or 'none'}"
    return None


def _limit(limits: JSONObject, name: str) -> int:
    most = limits[name]
    assert isinstance(most, int), f"{name} was checked when the job was submitted"
    return most


def _requeue(folder: Path) -> None:
    """Put this job back into the queue; SLURM then ends what is left of it here."""
    try:
        answer = patiently(
            lambda: _commands.call("scontrol", "requeue", os.environ["SLURM_JOB_ID"]), _PATIENCE_S, _waits
        )
    except SlurmUnavailable as silence:
        Record(folder / RECORD).update(reason=f"{Record(folder / RECORD).get('reason')}; {silence}"[:300])
        return
    if answer.code:
        mark_failed(folder, f"SLURM will not queue job {handle()} again: {answer.message}")
        print(f"xp: scontrol requeue: {answer.message}", file=sys.stderr, flush=True)


def _stay_away() -> None:
    """A job that another submission has leaves SLURM's queue, so that it is not queued again."""
    try:
        _commands.call("scancel", handle())
    except SlurmUnavailable as silence:
        print(f"xp: {silence}", file=sys.stderr, flush=True)


def _by_whom() -> str:
    """`cancelled by NAME (scancel)`; the name where accounting knows it already."""
    try:
        seen = Watcher().look([handle()]).get(handle())
    except SlurmUnavailable:
        seen = None
    return f"cancelled{f' by {seen.by}' if seen and seen.by else ''} (scancel)"


def _waits(words: str) -> None:
    print(f"xp: {words}; trying again", file=sys.stderr, flush=True)


def _output(fields: Mapping[str, str]) -> str:
    """The last words of the job's shell and srun."""
    try:
        text = Path(fields.get("StdOut", "")).read_bytes()[-2000:].decode(errors="replace")
    except OSError:
        return ""
    return " / ".join(line.strip() for line in text.splitlines()[-4:] if line.strip())


def _death(code: int) -> str:
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
