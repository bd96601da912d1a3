"""Claims about processes: results in order, little begun too early, the dead replaced, Ctrl-C left to the parent."""

import os
import signal
import struct
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import _ExecutorManagerThread
from pathlib import Path
from typing import Any, cast

import pytest

from xp.errors import UserError
from xp.runs.execution.signals import RunInterrupted
from xp.tasks._lib.pools import ATTEMPTS, Processes, in_order, workers_of


def stay() -> None:
    """Nobody asks to leave."""


def test_an_interrupt_does_not_wait_for_what_is_computed_elsewhere():
    asked = iter([False, False, True])

    def leave() -> None:
        if next(asked):
            raise RunInterrupted

    with pytest.raises(RunInterrupted), Processes(1) as processes:
        list(in_order(processes, time.sleep, [3600, 3600], leave))


def test_results_come_in_the_order_of_the_items():
    with Processes(2) as processes:
        assert list(in_order(processes, abs, [-3, -2, -1], stay)) == [3, 2, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_items_are_begun_than_there_are_workers_beyond_the_one_waited_for(workers):
    begun = []

    class Here:
        def begin(self, work, item):
            begun.append(item)
            done: Future = Future()
            done.set_result(work(item))
            return done

    processes = cast("Any", Here())
    processes.workers = workers
    results = in_order(processes, abs, range(100), stay)
    for taken in range(3):
        assert next(results) == taken and len(begun) == taken + 1 + workers
    results.close()
    assert len(begun) == 3 + workers
    assert list(in_order(processes, abs, [], stay)) == []


def die_at_two_once(marker_and_item: tuple[str, int]) -> int:
    marker, item = marker_and_item
    if item == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_what_a_dead_process_was_at_is_begun_again(tmp_path):
    items = [(str(tmp_path / "died"), item) for item in range(5)]
    with Processes(2) as processes:
        assert list(in_order(processes, die_at_two_once, items, stay)) == [0, 1, 2, 3, 4]
    assert (tmp_path / "died").exists()


def test_an_item_that_always_ends_its_process_is_named():
    with Processes(1) as processes, pytest.raises(UserError, match=f"died {ATTEMPTS} times while 7 was waited for"):
        list(in_order(processes, die, [7], stay))


def raise_timeout(item: int) -> int:
    raise TimeoutError(f"item {item}")


def test_what_the_work_raises_comes_out_even_where_it_is_a_timeout():
    with Processes(1) as processes, pytest.raises(TimeoutError, match="item 3"):
        list(in_order(processes, raise_timeout, [3], stay))


def handler_of_ctrl_c(_: int) -> str:
    return str(signal.getsignal(signal.SIGINT))


def test_worker_processes_leave_ctrl_c_to_the_one_that_ends_them():
    before = signal.getsignal(signal.SIGINT)
    with Processes(1) as processes:
        assert processes.begin(handler_of_ctrl_c, 0).result() == str(signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before


def test_workers_are_those_asked_for_or_one_a_core():
    assert workers_of(5) == 5 and 1 <= workers_of(None) <= 8


def cut_off(folder: str) -> str:
    """Send a part of a result and die, once; what the executor's own worker holds while it sends is held too."""
    flag = Path(folder) / "was_here"
    if flag.exists():
        return "whole"
    flag.touch()
    frame: Any = sys._getframe()
    while frame.f_code.co_name != "_process_worker":
        frame = frame.f_back
    results = frame.f_locals["result_queue"]
    with results._wlock:
        os.write(results._writer.fileno(), struct.pack("!i", 1000) + b"a few of a thousand")
        os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it outlived its end")


def managers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, _ExecutorManagerThread)]


@pytest.mark.timeout(120)
def test_a_process_that_dies_while_it_sends_a_result_is_replaced_and_holds_up_nobody(tmp_path):
    before = managers()
    with Processes(1) as processes:
        assert list(in_order(processes, cut_off, [str(tmp_path)], lambda: None)) == ["whole"]
    for thread in set(managers()) - set(before):
        thread.join(20)
        assert not thread.is_alive(), "Python waits for it at its end"


@pytest.mark.timeout(120)
def test_an_end_in_the_middle_of_a_result_leaves_nothing_that_python_waits_for(tmp_path):
    before = managers()
    with Processes(1) as processes:
        processes.begin(cut_off, str(tmp_path))
        process = next(iter(cast("Any", processes)._executor._processes.values()))
        process.join(60)
        time.sleep(0.2)  # the executor's thread reads what there is of it
    for thread in set(managers()) - set(before):
        thread.join(20)
        assert not thread.is_alive()
