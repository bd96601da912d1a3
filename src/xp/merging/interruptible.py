"""Work in threads that ends soon after it is asked to: a leaf may be gigabytes, and one job."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from xp.checkpoints.arrays import Reader

ASKED_EVERY_S = 0.2
"""How often `stop` is asked while nothing ends."""


class Left(Exception):  # noqa: N818 - an ending, not an error
    """A thread gives up what it was at: nobody waits for it any more."""


class Interruptible:
    """A reader whose next read ends the thread once `left` is set."""

    def __init__(self, reader: Reader, left: threading.Event) -> None:
        self._reader, self._left = reader, left
        self.leaves, self.ties, self.files = reader.leaves, reader.ties, reader.files

    def alignment(self, name: str) -> int:
        """See `Reader.alignment`."""
        return self._reader.alignment(name)

    def requires_sequential_read(self, name: str) -> bool:
        """See `Reader.requires_sequential_read`."""
        return self._reader.requires_sequential_read(name)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """See `Reader.read`; raises `Left` where nobody waits for it."""
        if self._left.is_set():
            raise Left
        return self._reader.read(name, start, stop)


def ended(running: Sequence["Future[Any]"], stop: Callable[[], None]) -> Iterator["Future[Any]"]:
    """Each future when it is done, in that order; `stop`, which may raise, is asked after each and between."""
    done: SimpleQueue[Future[Any]] = SimpleQueue()
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
