"""A worker process of a session of its own, started fresh, and the pipe through which it is told what to do.

Its session keeps Ctrl-C in a terminal from it: that reaches the parent alone, which then ends its workers. Whatever way
the parent ends, its pipes close, and a worker whose pipe closes ends. It leaves no file and no named memory behind.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

TAIL = 2000
"""Characters of a dead worker's last words that are shown."""
_START = """import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
getattr(importlib.import_module(sys.argv[2]), "main")(*map(int, sys.argv[3:]))
"""
"""A worker finds its modules where this process does: nothing that merely lies in the working folder."""
_END_S = 2.0
"""Seconds that a worker has for leaving before it is killed."""


class WorkerProcess:
    """One process, the end of its pipe, and its standard error: a file without a name, gone when it is closed.

    Args:
        module: the process calls its `main(descriptor, *numbers)`, where `descriptor` is its end of the pipe.
        setup: what it is told first.
        descriptors: open files that it inherits under the same numbers.
        numbers: passed on to `main`.
    """

    def __init__(self, module: str, setup: object, *, descriptors: Sequence[int] = (), numbers: Sequence[int] = ()):
        self.pipe, theirs = Pipe()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        path = [str(Path.cwd()) if entry == "" else entry for entry in sys.path]
        given = [json.dumps(path), module, str(theirs.fileno()), *map(str, numbers)]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-X", "faulthandler", "-c", _START, *given],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=[theirs.fileno(), *descriptors],
                start_new_session=True,
            )
        self.say(setup)

    def say(self, message: object) -> None:
        """Send a message; a worker that is gone is noticed when it is listened to."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(message)

    def last_words(self) -> str:
        """How the process ended, and the end of what it said."""
        _wait_for(self.process, time.monotonic() + _END_S)
        code = self.process.returncode
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()[-TAIL:]
        self.close()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}; its last words:\n{words}" if words else f"{how}; it said nothing"

    def close(self) -> None:
        """Let go of the pipe, at which the process leaves, and of the file."""
        self.pipe.close()
        self._errors.close()


def inbox(descriptor: int) -> "tuple[Connection, queue.SimpleQueue[Any]]":
    """In a worker: its end of the pipe, and what its parent says; when that has gone, the process leaves at once."""
    pipe = Connection(descriptor)
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, heard), daemon=True).start()
    return pipe, heard


def _listen(pipe: Connection, heard: "queue.SimpleQueue[Any]") -> None:
    while True:
        try:
            heard.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)


def end_all(workers: Iterable[WorkerProcess]) -> None:
    """Close the pipes of all, wait a moment, and kill who is still there."""
    processes = [worker.process for worker in workers]
    for worker in workers:
        worker.close()
    until = time.monotonic() + _END_S
    for process in processes:
        _wait_for(process, until)


def _wait_for(process: "subprocess.Popen[bytes]", until: float) -> None:
    """Wait for a process that is to end; at the moment `until` it is killed."""
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
