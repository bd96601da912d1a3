"""A process for one frozen job, for executors that start jobs on this machine: `start_job`.

The job ends with whoever started it: when that process is gone, however it went, the job writes a checkpoint and
leaves. Secrets go by the standard input, never by files or the command line. The other side is
`python -m xp.runs.executors.job_process`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from xp.errors import UserError
from xp.runs.execution import threads
from xp.runs.execution.execute import execute, mark_failed, mark_interrupted
from xp.runs.execution.worker import task_named
from xp.runs.executors.protocol import JobState, by_record
from xp.runs.jobs.frozen import secrets_of
from xp.runs.records.folder import LOG, RECORD
from xp.runs.records.lock import Busy
from xp.runs.records.record import Record, State

BUSY = 75
"""Exit code of a process that found another at work on the job (sysexits' EX_TEMPFAIL): look again later."""
_SAID = 76
"""Exit code of a process whose job has ended otherwise than done, as its record says."""
_MODULE = "xp.runs.executors.job_process"
_TASK = "xp.__main__:run_task"


def start_job(
    folder: Path, *, environment: Mapping[str, str] | None = None, grace_s: float = 30.0, target: str = _TASK
) -> "subprocess.Popen[bytes]":
    """Start a process that runs the job frozen in `folder`, unless another process is at work on it.

    Of its exit code `BUSY` means that it was; what any other means `ended_state` says. SIGTERM asks it to write a
    checkpoint and leave. Keep what is returned: the job leaves when it is gone.

    Args:
        folder: the job's folder.
        environment: variables to add to this process's own.
        grace_s: seconds that the job has for its last checkpoint when the starting process is gone.
        target: MODULE:FUNCTION that runs a `Run`.
    """
    with (folder / LOG).open("ab") as log:  # what a process says that cannot even begin
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(folder), str(grace_s), target],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **threads.environment(None), **(environment or {})},
            start_new_session=True,  # Ctrl-C in a terminal is for the controller, which asks its jobs to leave
        )
    assert process.stdin is not None
    process.stdin.write((json.dumps(dict(secrets_of(folder))) + "\n").encode())
    process.stdin.flush()
    return process


def ended_state(folder: Path, exit_code: int, *, was_asked: bool) -> JobState:
    """How a job stands whose process ended; where the process could not write that down itself it is written here.

    Args:
        folder: the job's folder.
        exit_code: of the process, negative for a signal; not `BUSY`.
        was_asked: whether it was asked to leave before it ended.
    """
    if exit_code in (0, _SAID):
        return by_record(Record(folder / RECORD))
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    if was_asked:
        mark_interrupted(folder, f"its process {how} while it was asked to leave")
        return JobState.INTERRUPTED
    mark_failed(folder, f"the job's process {how}")
    return JobState.FAILED


def _main() -> int:
    folder, grace_s, target = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    secrets = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, args=(grace_s,), daemon=True).start()
    try:
        state = execute(folder, task_named(target), echo=False, secrets=secrets)
    except Busy:
        return BUSY
    except UserError as error:
        print(f"xp: {error}", file=sys.stderr)  # into the job's log
        return error.exit_code
    return 0 if state is State.DONE else _SAID


def _leave_with_parent(grace_s: float) -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(_main())
