"""Beside a job's work, in a thread: whether the job is still this attempt's, and whether it leaves in time.

An attempt on a node that was given up (its network was gone, it was frozen) must not work beside the one that took its
place. So every two seconds it looks whether its submission was withdrawn and whether a later attempt has begun, and it
ends at once if so, or if it could give no heartbeat for a minute: others count it as dead after a minute and a half.
Everything that a run writes is written whole, so a process may end anywhere.

A job that was cancelled or reached its time limit has KillWait seconds until SLURM kills all of it, the shell that
would write down what happened included. The guard ends a step that has not left shortly before.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra_plugins.xp_slurm_launcher._here import LEFT
from hydra_plugins.xp_slurm_launcher._job_specs import last_attempt, read_job_spec
from hydra_plugins.xp_slurm_launcher._protocol import Attempt
from xp.errors import UserError
from xp.runs.records.heartbeat import HEARTBEAT

LOOK_S = 2.0
LEASE_S = 60.0
"""Without a heartbeat for so long an attempt ends itself; others wait `xp.runs.records.heartbeat.STALE_S`."""
_ENDING = ("CANCELLED", "COMPLETING", "TIMEOUT", "PREEMPTED", "DEADLINE", "NODE_FAIL", "FAILED")


class Guard:
    """What one attempt knows of itself."""

    def __init__(self, job_spec: Path, index: int, folder: Path, attempt: Attempt, kill_wait_s: int):
        self._job_spec, self._index, self._folder, self._attempt = job_spec, index, folder, attempt
        self._leave_s = max(0.5, kill_wait_s - min(6.0, 0.4 * kill_wait_s))
        self._begun = threading.Event()
        self._shown = _clock()
        self._known: tuple[int, int] | None = None

    def begin(self) -> None:
        """The attempt has the run now."""
        self._shown = _clock()
        self._begun.set()

    def watch(self, signals: socket.socket, over: threading.Event) -> None:
        """Look until `over`; ends the process where it has to."""
        signals.settimeout(LOOK_S)
        deadline: float | None = None
        while not over.is_set():
            asked = _received(signals)
            if signal.SIGTERM in asked and self._begun.is_set() and deadline is None and _is_ending():
                deadline = _clock() + self._leave_s
                signals.settimeout(min(LOOK_S, 0.2))
            if over.is_set():
                return
            if deadline is not None and _clock() > deadline:
                os._exit(128 + signal.SIGTERM)
            if self._begun.is_set():
                self._look()

    def _look(self) -> None:
        if self._lost():
            print("xp: another attempt has this run: this one ends", flush=True)
            os._exit(LEFT)
        with suppress(OSError):
            try:
                os.utime(self._folder / HEARTBEAT)  # a heartbeat that needs no room on a full disk
            except FileNotFoundError:  # none could be written yet
                self._folder.stat()
            self._shown = _clock()
        if _clock() - self._shown > LEASE_S:
            os._exit(LEFT)

    def _lost(self) -> bool:
        """Whether the run is not this attempt's any more; what cannot be read is no answer."""
        try:
            last = last_attempt(self._folder)
            if last is not None and last != self._attempt:
                return True
            status = self._job_spec.stat()
            if (known := (status.st_mtime_ns, status.st_ino)) == self._known:
                return False
            withdrawn = self._index in read_job_spec(self._job_spec).withdrawn
            self._known = known
        except (OSError, UserError):
            return False
        return withdrawn


@contextmanager
def guarding(job_spec: Path, index: int, folder: Path, attempt: Attempt, kill_wait_s: int) -> Iterator[Guard]:
    """Guard an attempt while the block runs; it counts as begun from `Guard.begin` on."""
    guard, over = Guard(job_spec, index, folder, attempt, kill_wait_s), threading.Event()
    heard, written = socket.socketpair()
    written.setblocking(False)
    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=guard.watch, args=(heard, over), name="guard", daemon=True)
    thread.start()
    try:
        yield guard
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        written.close()
        thread.join()
        heard.close()


def _received(signals: socket.socket) -> list[int]:
    """Numbers of the signals that came within the socket's time limit; the time passes too where it is closed."""
    try:
        received = list(signals.recv(64))
    except TimeoutError:
        return []
    return received


def _is_ending() -> bool:
    """Whether SLURM ends this job (and does not only pass on somebody's signal)."""
    from hydra_plugins.xp_slurm_launcher._commands import SlurmUnavailable, job_fields

    try:
        return job_fields(os.environ.get("SLURM_JOB_ID", "0")).get("JobState") in _ENDING
    except SlurmUnavailable:
        return False


def _clock() -> float:
    """Seconds, those in which the machine was suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
