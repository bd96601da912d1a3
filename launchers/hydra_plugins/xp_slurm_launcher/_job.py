"""On the node: run one frozen job (`run ORDER`), and afterwards tell SLURM what became of it (`ended ORDER CODE`).

The step does the work and hears the signals; it writes a checkpoint and leaves. The shell around it then asks SLURM why
the job had to leave, and acts: a job near its time limit is queued again, a preempted one SLURM itself queues again, a
cancelled one stays away, one whose process was killed is given another try. The exit code is SLURM's verdict: 0 only
for a job that is done.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_AGAIN_S = (0.02, 0.05, 0.2, 1.0)
"""Pauses between attempts while another process holds the job's folder; the last one is repeated."""


def main(arguments: list[str]) -> int:
    """Gives the exit code."""
    verb, order = arguments[0], json.loads(Path(arguments[1]).read_text())
    folder = Path(order["jobs"][int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))])
    if verb == "ended":
        from hydra_plugins.xp_slurm_launcher._ended import ended

        return ended(folder, order, int(arguments[2]))
    return _run(folder, order["target"])


def handle() -> str:
    """The handle of the job that this process belongs to."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


def _run(folder: Path, target: str) -> int:
    for number in (signal.SIGTERM, signal.SIGUSR2):  # asked to leave before the job has begun
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    os.environ["XP_HANDLE"], os.environ["XP_JOB_NODE"] = handle(), os.environ.get("SLURMD_NODENAME", "")
    hidden = json.loads(os.environ.pop("XP_JOB_SECRETS", "{}")).get(str(folder), {})
    from xp.errors import UserError
    from xp.runs import threads

    try:
        threads.settle()
        return _execute(folder, _task(target), hidden)
    except UserError as error:
        print(f"xp: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _execute(folder: Path, task: Callable[[Any], None], hidden: dict[str, str]) -> int:
    """Run the job; while another process works in its folder, wait for it as long as it shows signs of life."""
    from xp.runs.execute import execute, exit_code
    from xp.runs.heartbeat import beats
    from xp.runs.lock import Busy

    attempt = 0
    while True:
        try:
            execute(folder, task, echo=False, secrets=hidden)
            return exit_code(folder)
        except Busy:
            if attempt > 60 and not beats(folder):
                raise
            time.sleep(_AGAIN_S[min(attempt, len(_AGAIN_S) - 1)])
            attempt += 1


def _task(target: str) -> Callable[[Any], None]:
    module, _, function = target.partition(":")

    def run(job: Any) -> None:
        getattr(importlib.import_module(module), function)(job)  # imported inside the run: its log gets the errors

    return run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
