"""Pieces of weights are moved by several threads: each once, the longest job first, and none after a failure."""

import threading

import numpy as np
import pytest

from xp.checkpoints.arrays import CorruptFileError
from xp.models.pi0.io.moving import THREADS, Job, Piece, move

ONE = np.ones(1, np.float32)


def job(name, count, nbytes=1):
    return Job(nbytes, iter([Piece(name, start, ONE, 4) for start in range(count)]))


def test_every_piece_is_written_once_and_told():
    written, told = [], []
    move([job(str(name), 5) for name in range(7)], lambda name, start, _: written.append((name, start)), told.append)
    assert sorted(written) == [(str(name), start) for name in range(7) for start in range(5)]
    assert sum(told) == 4 * 35


def test_the_longest_jobs_begin():
    begun = []
    move([job(str(size), 1, size) for size in range(10)], lambda name, *_: begun.append(int(name)), lambda _: None)
    assert set(begun[:THREADS]) <= {9, 8, 7} and begun[-1] <= THREADS


def test_a_failure_is_raised_and_ends_the_other_jobs():
    failed, written = threading.Event(), []

    def damaged():
        failed.set()
        raise CorruptFileError("a chunk ends too early")
        yield

    def endless():
        failed.wait(10)
        for start in range(10**9):
            yield Piece("other", start, ONE, 4)

    jobs = [Job(2, endless()), Job(1, damaged()), job("later", 3, 0)]
    with pytest.raises(CorruptFileError, match="ends too early"):
        move(jobs, lambda name, *_: written.append(name), lambda _: None)
    assert len(written) < 10**9
