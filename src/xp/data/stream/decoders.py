"""Processes that read pieces of frames (`xp.worker_process`), each looked after by a thread of this one.

What a process has read lies in memory that it shares with this process alone: a file without a name, gone with the two
of them, however they end. Its thread copies the frames to where they belong, so a process that dies or hangs harms
nobody's batch: it is replaced, and reads the piece again.
"""

import mmap
import os
import queue
import tempfile
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from xp.data.frame_source import FramePiece
from xp.data.stream.worker import READY
from xp.errors import UserError
from xp.worker_process import WorkerProcess

ATTEMPTS = 3
"""How often a piece is read again whose process has died."""
SILENCE_S = 600.0
"""Seconds that a process may take for a piece before it is taken for hung: a piece takes less than a second, unless the
disk is silent."""


START_S = 600.0
"""Seconds that a process may take to begin."""


class _Task(NamedTuple):
    piece: FramePiece
    put: Callable[[np.ndarray], None]
    done: "Future[None]"


class Decoders:
    """Worker processes that read pieces of frames, in the order in which they are begun.

    They start with the first piece and end with this object, or with the process.

    Args:
        workers: how many.
        piece_bytes: the most that the frames of a piece take.
    """

    def __init__(self, workers: int, piece_bytes: int) -> None:
        self.workers = workers
        self.piece_bytes = piece_bytes
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._desks: list[_Desk] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _end, self._tasks, self._desks)

    def begin(self, piece: FramePiece, put: Callable[[np.ndarray], None]) -> "Future[None]":
        """Have `piece` read, and `put` called in another thread with its frames [n, h, w, 3], to be copied there."""
        with self._lock:
            while len(self._desks) < self.workers:
                desk = _Desk(self.piece_bytes)
                self._desks.append(desk)
                threading.Thread(target=_serve, args=(desk, self._tasks), daemon=True, name="xp-decoders").start()
        task = _Task(piece, put, Future())
        self._tasks.put(task)
        return task.done

    def close(self) -> None:
        """End all processes, whatever they read."""
        with self._lock:
            _end(self._tasks, self._desks)


class _ClosedError(Exception):
    """The processes were ended; nobody waits for what they read."""


class _Desk:
    """One place to work at: the shared memory, and the process that is there now."""

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        self._memory: tuple[int, np.ndarray] | None = None
        self._worker: WorkerProcess | None = None
        self._closing = False

    def read(self, piece: FramePiece) -> np.ndarray:
        """The frames of a piece, in memory that the next piece will overwrite.

        Raises:
            UserError: a file is damaged, or processes have died `ATTEMPTS` times.
        """
        words = ""
        for _ in range(ATTEMPTS):
            said = self._asked(piece)
            if isinstance(said, UserError):
                raise said
            if isinstance(said, tuple):
                _, memory = self._room()
                return memory[: int(np.prod(said))].reshape(said)
            words = said
        raise UserError(
            f"A process that decodes frames has died {ATTEMPTS} times at {piece} (out of memory?): {words}. Free some "
            "memory, take fewer of them (data.workers=1), or decode in the run's own process: data.frames=cache."
        )

    def close(self) -> None:
        """End the process; who waits for it hears that it is gone."""
        self._closing = True
        worker = self._worker
        if worker is not None:
            worker.process.kill()

    def leave(self) -> None:
        """Let go of everything; called by the thread of this desk, when it has nothing more to do."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.process.kill()
            worker.process.wait()
            worker.close()
        if self._memory is not None:
            os.close(self._memory[0])
            self._memory = None

    def _asked(self, piece: FramePiece) -> tuple[int, ...] | UserError | str:
        """The shape of the frames, a refusal, or the last words of a process that died."""
        if self._worker is None:
            file, memory = self._room()
            self._worker = WorkerProcess("xp.data.stream.worker", None, descriptors=[file], numbers=[file, len(memory)])
            if self._heard(self._worker, START_S) != READY:
                return self._lost(self._worker)
        worker = self._worker
        if self._closing:  # said after the process was known to `close`, or before it began
            raise _ClosedError
        worker.say(piece)
        said = self._heard(worker, SILENCE_S)
        return self._lost(worker) if said is None else said

    @staticmethod
    def _heard(worker: WorkerProcess, patience: float) -> Any:
        """What a process says; None where it died, or said nothing for so many seconds and was ended."""
        try:
            if worker.pipe.poll(patience):
                return worker.pipe.recv()
            worker.process.kill()
        except (EOFError, OSError):
            pass
        return None

    def _lost(self, worker: WorkerProcess) -> str:
        if self._closing:
            raise _ClosedError
        self._worker = None
        return worker.last_words()

    def _room(self) -> tuple[int, np.ndarray]:
        if self._memory is None:
            file = _unnamed_file()
            os.ftruncate(file, self._piece_bytes)
            self._memory = file, np.frombuffer(mmap.mmap(file, self._piece_bytes), np.uint8)
        return self._memory


def _unnamed_file() -> int:
    """The descriptor of a new file that has no name: in memory where the system offers that."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("xp-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _serve(desk: _Desk, tasks: "queue.SimpleQueue[_Task | None]") -> None:
    """What a thread does until it is told None."""
    while (task := tasks.get()) is not None:
        if not task.done.set_running_or_notify_cancel():
            continue
        try:
            task.put(desk.read(task.piece))
            task.done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - it belongs to who waits for the piece
            task.done.set_exception(error)
        del task  # or the batch's memory would be held until the next piece comes
    desk.leave()


def _end(tasks: "queue.SimpleQueue[_Task | None]", desks: list[_Desk]) -> None:
    """Drop what was not begun, and end all threads with their processes."""
    while True:
        try:
            left = tasks.get_nowait()
        except queue.Empty:
            break
        if left is not None:
            left.done.cancel()
    for desk in desks:
        desk.close()
        tasks.put(None)
    desks.clear()
