"""One worker process as the controller sees it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

_MODULE = "hydra_plugins.xp_local_launcher._worker"


class Worker:
    """A warm process that runs one job at a time."""

    def __init__(self, target: str, environment: Mapping[str, str], grace_s: float, inherited: tuple[int, ...] = ()):
        self.job: Path | None = None
        self.ready = False
        """Whether the process is up: jobs go to those that are, so none waits for an interpreter to start."""
        self.asked_at: float | None = None
        """When the present job was asked to leave."""
        self.warmed = False
        """Whether it has been told to import ahead; the first job does as much."""
        self._buffer = b""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker; its last words
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, target, str(grace_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=dict(environment),
            pass_fds=inherited,  # the lock of its GPU: it is free when controller and worker are gone
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def fileno(self) -> int:
        """Readable when the worker has something to report, or is gone."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def gone(self) -> bool:
        """True if the process has ended."""
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def start(self, folder: Path, secrets: Mapping[str, str]) -> bool:
        """Hand over a job; False if the worker is gone."""
        assert self.job is None
        if not self._order({"folder": str(folder), "secrets": dict(secrets)}):
            return False
        self.job, self.asked_at, self.warmed = folder, None, True
        return True

    def warm_up(self, folder: Path) -> None:
        """Let the idle worker import what the job frozen in `folder` will import."""
        self.warmed = True
        self._order({"warm_up": str(folder)})

    def ask_to_leave(self) -> None:
        """Let the present job write a checkpoint and end."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        self._signal(signal.SIGKILL)

    def reports(self) -> tuple[list[dict[str, str]], bool]:
        """What the worker has reported since the last call, and whether it is still there."""
        alive = True
        while True:
            try:
                data = os.read(self.fileno(), 65536)
            except BlockingIOError:
                break
            if not data:
                alive = False
                break
            self._buffer += data
        alive = alive and self._process.poll() is None  # a forked child may hold the pipe open after its death
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines], alive

    def end(self) -> int:
        """Close the pipes and wait for the process; its return code, negative for a signal."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        return self._process.wait()

    def last_words(self) -> str:
        """The end of what the process wrote on its standard error outside of jobs."""
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - 2000))
        return self._words.read().decode(errors="replace").strip()

    def _order(self, order: Mapping[str, object]) -> bool:
        """Send a line; False if the worker is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(order) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)


def cause_of_death(code: int) -> str:
    """What a return code says, in words."""
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL); most often the machine ran out of memory"
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    return f"ended by itself with exit code {code}"
