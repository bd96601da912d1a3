"""Processes that work for a task of this one, hear no Ctrl-C, and are replaced where one of them dies."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import Any, Self

from xp.errors import UserError
from xp.runs.execution import threads

HEARD_EVERY_S = 0.1
"""How often it is asked whether to leave while something is computed elsewhere."""
MOST_WORKERS = 8
LOST_AFTER_S = 2.0
"""How long a dead process's results are waited for: whole ones that it had sent are there by then."""
ATTEMPTS = 3
"""How often it is begun again what was lost with a process, until something is finished."""


def workers_of(asked: int | None) -> int:
    """How many processes: as many as asked for, else one for each allotted core, at most 8."""
    return asked or min(threads.cores(), MOST_WORKERS)


class Processes:
    """Worker processes; a context that ends them, whatever they compute.

    They leave Ctrl-C, which reaches every process of a terminal, to this one, which ends them.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int):
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def begin[Item, Result](self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        """Give `work(item)` to the process that is free first. What a dead process has lost, its future tells."""
        if self._executor is None:
            self._executor = ProcessPoolExecutor(self.workers, get_context("spawn"), _begin)
        try:
            return self._executor.submit(work, item)
        except BrokenProcessPool as error:
            lost: Future[Result] = Future()
            lost.set_exception(error)
            return lost

    @property
    def has_dead(self) -> bool:
        """Whether a process has died."""
        processes = (self._executor._processes or {}) if self._executor else {}
        return any(process.exitcode is not None for process in list(processes.values()))

    def end(self) -> None:
        """End all processes; the next `begin` starts others."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        processes = list((executor._processes or {}).values())  # there is no public way to end what computes
        results: Any = executor._result_queue
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        # A result whose sender was ended half-way: the executor's thread, which Python waits for at its end, would read
        # for ever. With the last open end of the pipe gone it finds the end instead.
        results._writer.close()


def in_order[Item, Result](
    processes: Processes, work: Callable[[Item], Result], items: Iterable[Item], leave_when_asked: Callable[[], None]
) -> Iterator[Result]:
    """What `work` gives for each item, in their order; while something is computed, requests to leave are heard.

    Never more items are begun beyond the one that is waited for than there are workers: who stops early has little
    computed for nothing, and what is large does not pile up. Where a process dies, what was begun is begun again.

    Raises:
        UserError: processes have died `ATTEMPTS` times and nothing was finished in between.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    deaths = 0

    def first() -> Result:
        nonlocal deaths
        while True:
            try:
                result = _heard(waiting[0][1], processes, leave_when_asked)
            except BrokenProcessPool as error:
                deaths += 1
                _refuse_deadly(waiting[0][0], deaths, error)
                processes.end()
                begun = [(item, processes.begin(work, item)) for item, _ in waiting]
                waiting.clear()
                waiting.extend(begun)
            else:
                waiting.popleft()
                deaths = 0
                return result

    try:
        for item in items:
            waiting.append((item, processes.begin(work, item)))
            if len(waiting) > processes.workers:
                yield first()
        while waiting:
            yield first()
    finally:
        for _, unwanted in waiting:
            unwanted.cancel()


def _refuse_deadly(item: object, deaths: int, error: BrokenProcessPool) -> None:
    if deaths >= ATTEMPTS:
        raise UserError(
            f"Processes that simulate have died {deaths} times while {item} was waited for (out of memory?). The last "
            "words may stand above. Type collect.workers=1 (task=eval: eval.workers=1) to simulate in the run's own "
            "process, whose error then says more."
        ) from error


def _heard[Result](result: "Future[Result]", processes: Processes, leave_when_asked: Callable[[], None]) -> Result:
    """The result; a process that died while it sent one is noticed here, for the executor waits for the rest of it."""
    dead_since: float | None = None
    while True:
        leave_when_asked()
        try:
            return result.result(timeout=HEARD_EVERY_S)
        except TimeoutError:
            if result.done():  # it is what the work itself has raised
                raise
        dead_since = (dead_since or time.monotonic()) if processes.has_dead else None
        if dead_since is not None and time.monotonic() - dead_since > LOST_AFTER_S:
            raise BrokenProcessPool("a process died while it sent its result")


def _begin() -> None:
    """What a process does first: leave Ctrl-C to its parent, and see to it that it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker process"
    parent.join()
    os._exit(1)
