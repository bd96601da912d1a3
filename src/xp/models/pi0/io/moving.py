# pyright: strict
"""Moves pieces of weights from where they are read to where they are written, by a few threads.

A leaf is one job, since some are cheap to read only from front to end; decoding, copying and writing all run outside
the interpreter's lock.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

from xp.checkpoints.arrays import AnyArray

THREADS = 2
"""At work at once; each holds a layer or two of a leaf."""

type Advance = Callable[[int], None]
"""Told how many bytes were read."""


class Piece(NamedTuple):
    """`values` [n] for the elements from `start` on of what is written under `name`; good until the next is asked for.

    `read`: bytes that were read for it.
    """

    name: str
    start: int
    values: AnyArray
    read: int


class Job(NamedTuple):
    """What one thread does: `pieces` reads as it is asked. `nbytes`, of all of it, tells which job is long."""

    nbytes: int
    pieces: Iterator[Piece]


def move(jobs: Iterable[Job], write: Callable[[str, int, AnyArray], None], advance: Advance) -> None:
    """Write every piece of every job; the longest begin.

    Args:
        jobs: none of them begun.
        write: takes name, start and values of a piece; called by several threads.
        advance: told of every piece when it is written; called by one thread at a time.

    Raises:
        Exception: the first that a job raised; the other jobs end with the piece that they are at.
    """
    telling, abandoned = threading.Lock(), threading.Event()

    def work(job: Job) -> None:
        if abandoned.is_set():
            return
        try:
            for piece in job.pieces:
                write(piece.name, piece.start, piece.values)
                if abandoned.is_set():
                    return
                with telling:
                    advance(piece.read)
        except BaseException:
            abandoned.set()  # here, at once: this thread takes the next job before anybody has heard of it
            raise

    with ThreadPoolExecutor(THREADS, "convert") as pool:
        running = [pool.submit(work, job) for job in sorted(jobs, key=lambda job: -job.nbytes)]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:
            abandoned.set()
            raise
        finally:
            for future in running:
                future.cancel()
