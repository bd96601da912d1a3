"""A worker process: takes folders of frozen jobs from its standard input, one after the other, and runs them.

What is imported for the first job stays imported for the next. Lines of JSON go both ways: in comes
`{"folder": ..., "secrets": {...}}`, out goes `{"ready": true}` once and `{"folder": ..., "state": ...}` per job. With
`{"warm_up": folder}` comes time to spare: what that job will import is imported ahead. When the input ends (the
controller is gone, however it went) the job at hand is asked to write a checkpoint and leave, and then the worker ends.
"""

import contextlib
import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
from typing import Any


def main() -> None:
    """Serve until the input ends. Arguments: `MODULE:FUNCTION` to run jobs with, and the grace time in seconds."""
    target, grace_s = sys.argv[1], float(sys.argv[2])
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever prints between jobs must not be taken for a report
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller decides what Ctrl-C means; jobs listen themselves
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, grace_s), daemon=True).start()
    reports.write('{"ready": true}\n')
    while (order := orders.get()) is not None:
        if "warm_up" in order:
            _warm_up(order["warm_up"], target)
            continue
        reports.write(json.dumps(_serve(order, target)) + "\n")
        gc.collect()


def _serve(order: dict[str, Any], target: str) -> dict[str, str]:
    from xp.errors import UserError
    from xp.runs.execution.execute import execute
    from xp.runs.execution.worker import task_named
    from xp.runs.records.lock import Busy

    folder = order["folder"]
    try:
        state = execute(folder, task_named(target), echo=False, secrets=order["secrets"])
    except Busy:
        return {"folder": folder, "state": "busy"}
    except UserError as error:
        return {"folder": folder, "state": "failed", "message": str(error)}
    return {"folder": folder, "state": str(state)}


def _warm_up(folder: str, target: str) -> None:
    """Call `warm_up` of the module that runs jobs, where it has one."""
    # Whatever goes wrong here goes wrong in the job again, and is said in its log.
    with contextlib.suppress(Exception):
        importlib.import_module(target.partition(":")[0]).warm_up(folder)


def _listen(orders: "queue.SimpleQueue[dict[str, Any] | None]", grace_s: float) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    orders.put(None)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os._exit(1)


if __name__ == "__main__":
    main()
