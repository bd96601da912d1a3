"""A merge that is asked to leave leaves soon, however long its leaves are, and leaves nothing behind."""

import threading

import numpy as np
import pytest
from merging_made_up import made_arrays, tree_state, write_torch

from xp.checkpoints.arrays import Leaf
from xp.merging import Hooks, merge
from xp.merging.content import Content
from xp.merging.engine import verify
from xp.merging.interruptible import AbandonedError, InterruptibleReader, as_completed


class Asked(Exception):  # noqa: N818
    """Somebody asked the run to leave."""


class Endless:
    """One leaf of 10^13 elements, read a block at a time; counts the reads."""

    def __init__(self):
        self.leaves, self.ties, self.files = {"w": Leaf("w", (10**13,), np.dtype(np.float32))}, {}, ()
        self.reads, self.begun = 0, threading.Event()

    def alignment(self, name):
        return 1

    def requires_sequential_read(self, name):
        return True  # so that the whole leaf is one job

    def read(self, name, start, stop):
        self.reads += 1
        self.begun.set()
        return np.zeros(stop - start, np.float32)


def test_reading_back_ends_in_the_middle_of_a_leaf():
    reader, asked = Endless(), []

    def stop():
        reader.begun.wait(60)
        asked.append(reader.reads)
        raise Asked

    with pytest.raises(Asked):
        verify(reader, reader.leaves, Content(), stop)
    assert len(asked) == 1  # and the pool's thread ended: a leaf of 40 TB was not read to its end


def test_a_read_after_the_end_ends_the_thread():
    left = threading.Event()
    reader = InterruptibleReader(Endless(), left)
    assert len(reader.read("w", 0, 3)) == 3
    left.set()
    with pytest.raises(AbandonedError):
        reader.read("w", 0, 3)


def test_futures_come_as_they_end_and_stop_is_asked_between():
    from concurrent.futures import Future

    first, second, asked = Future(), Future(), []

    def stop():
        asked.append(len(asked))
        if len(asked) == 2:
            first.set_result("late")

    second.set_result("early")
    assert [future.result() for future in as_completed([first, second], stop)] == ["early", "late"]
    assert len(asked) == 3


def test_a_merge_that_is_asked_to_leave_leaves_nothing(tmp_path):
    inputs = [write_torch(tmp_path / f"c{k}", made_arrays(k)) for k in range(2)]
    before = tree_state(tmp_path)
    for number in range(1, 6):  # while writing, and while reading back
        asked = []

        def stop(asked=asked, number=number):
            asked.append(1)
            if len(asked) == number:
                raise Asked

        with pytest.raises(Asked):
            merge(inputs, "average", output=tmp_path / "out", hooks=Hooks(stop=stop))
        assert tree_state(tmp_path) == before
