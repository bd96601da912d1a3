"""Threads that end soon after a merge is asked to stop, although a leaf of gigabytes is one job."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

import numpy as np

from xp.checkpoints.arrays import Reader

ASKED_EVERY_S = 0.2
"""How often `stop` is asked while nothing ends."""


class AbandonedError(Exception):
    """A thread gives up its work: nobody waits for it any more."""


class InterruptibleReader:
    """A reader whose next read ends the thread once `abandoned` is set."""

    def __init__(self, reader: Reader, abandoned: threading.Event) -> None:
        self._reader, self._abandoned = reader, abandoned
        self.leaves, self.ties, self.files = reader.leaves, reader.ties, reader.files

    def alignment(self, name: str) -> int:
        """See `Reader.alignment`."""
        return self._reader.alignment(name)

    def requires_sequential_read(self, name: str) -> bool:
        """See `Reader.requires_sequential_read`."""
        return self._reader.requires_sequential_read(name)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """See `Reader.read`; raises `AbandonedError` where nobody waits for it."""
        if self._abandoned.is_set():
            raise AbandonedError
        return self._reader.read(name, start, stop)


def as_completed[Result](running: Sequence["Future[Result]"], stop: Callable[[], None]) -> Iterator["Future[Result]"]:
    """Each future when it is done, in that order; `stop`, which may raise, is asked after each and between."""
    done: SimpleQueue[Future[Result]] = SimpleQueue()
    for future in running:
        future.add_done_callback(done.put)
    for _ in running:
        while True:
            try:
                yield done.get(timeout=ASKED_EVERY_S)
                break
            except Empty:
                stop()
        stop()
