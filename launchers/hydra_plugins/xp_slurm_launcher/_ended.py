"""After a job's step has left without being done: why, and what now. Runs in the job's own shell, on its node."""

import os
import re
import signal
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra_plugins.xp_slurm_launcher import _commands
from hydra_plugins.xp_slurm_launcher._job import handle
from xp.errors import UserError
from xp.runs.execute import mark_failed, mark_interrupted
from xp.runs.folder import RECORD
from xp.runs.progress import last_step
from xp.runs.record import Record, State, now

_MEMORY = re.compile(r"memory limit|oom.kill|out of memory", re.IGNORECASE)


class Why(StrEnum):
    """Why a job's step has left."""

    TIME = "time limit"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    DIED = "died"
    FAILED = "failed"


def ended(folder: Path, order: Mapping[str, Any], code: int) -> int:
    """Write down how the job stands and queue it again if that is right; gives the exit code of the SLURM job."""
    record = Record(folder / RECORD)
    if record.state is State.DONE:
        return 0
    if record.state is State.FAILED:
        return code
    why = reason(record, code, _commands.job_fields(os.environ["SLURM_JOB_ID"]))
    output = _output()
    message = verdict(why, order, record.get("requeues") or [], last_step(folder), code, output)
    if message:
        mark_failed(folder, message)
        return code
    mark_interrupted(folder, str(why))
    record = Record(folder / RECORD)
    if why is Why.CANCELLED:
        record.update(state=State.CANCELLED, reason=str(why))
        return code
    noted = [*(record.get("requeues") or []), {"time": now(), "reason": str(why), "step": last_step(folder)}]
    record.update(state=State.PENDING, interrupted=bool(record.get("attempts")), reason=str(why), requeues=noted)
    if why is not Why.PREEMPTED:
        _requeue(folder)
    return code


def reason(record: Record, code: int, fields: Mapping[str, str]) -> Why:
    """Why the step has left, by SLURM's own word.

    Args:
        record: the job's record; still `running` if its process was killed.
        code: exit code of the step; 128 + signal for a signal.
        fields: `scontrol show job`.
    """
    if int(fields.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return Why.PREEMPTED  # SLURM has put it back into the queue already
    if fields.get("PreemptTime", "None") not in ("None", "Unknown", ""):
        return Why.PREEMPTED
    if fields.get("Reason") == "TimeLimit" or fields.get("JobState") == "TIMEOUT":
        return Why.TIME
    if fields.get("JobState") in ("CANCELLED", "COMPLETING"):
        return Why.CANCELLED
    if code == 128 + signal.SIGUSR2 or (code == 128 + signal.SIGTERM and not record.interrupted):
        return Why.TIME
    if record.state is State.PENDING and record.interrupted and code > 128:  # left in good order
        return Why.TIME
    return Why.DIED if code > 128 else Why.FAILED


def verdict(
    why: Why, order: Mapping[str, Any], requeues: list[dict[str, Any]], step: int | None, code: int, output: str
) -> str | None:
    """Why the job shall not be queued again, as its error; None if it may be (or was cancelled)."""
    before = [each for each in requeues if each["reason"] == why]
    if why is Why.TIME:
        if before and before[-1].get("step") == step:
            return (
                "No step was made between two time limits, so another one would be as useless. Give the job more time "
                "(hydra.launcher.time_min=MINUTES) or more frequent checkpoints, and run the same command with "
                "hydra.sweeper.retry_failed=true."
            )
        if len(before) >= order["max_requeues"]:
            limit = f"hydra.launcher.max_requeues={order['max_requeues']}"
            return f"The time limit was reached {len(before) + 1} times ({limit})."
    if why is Why.DIED:
        if _MEMORY.search(output):
            return (
                "The job used more memory than it had asked for and was killed. Give it more with "
                "hydra.launcher.mem_gb=GB, and run the same command with hydra.sweeper.retry_failed=true. SLURM's "
                f"words: {output}"
            )
        if len(before) >= order["retries"]:
            return f"The job's process was killed ({_death(code)}). Its last words: {output or 'none'}"
    if why is Why.FAILED:
        return f"The job ended with exit code {code} before it began. Its last words: {output or 'none'}"
    return None


def _requeue(folder: Path) -> None:
    """Put this job back into the queue; SLURM then ends what is left of it here."""
    answer = _commands.call("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    if answer.code:
        mark_failed(folder, f"SLURM will not queue job {handle()} again: {answer.words}")
        raise UserError(f"scontrol requeue: {answer.words}")


def _output() -> str:
    """The last words of the job's shell and srun."""
    path = _commands.job_fields(os.environ["SLURM_JOB_ID"]).get("StdOut", "")
    try:
        text = Path(path).read_bytes()[-2000:].decode(errors="replace")
    except OSError:
        return ""
    return " / ".join(line.strip() for line in text.splitlines()[-4:] if line.strip())


def _death(code: int) -> str:
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
