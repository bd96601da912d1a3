"""Builds the inputs of the next steps in a background thread while the device works."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def prefetched[T](make: Callable[[int], T], start: int, stop: int, depth: int = 2) -> Iterator[Iterator[T]]:
    """Iterate over `make(start) .. make(stop - 1)`, at most `depth` of them built ahead.

    `make` must be a pure function of its argument: nothing of what was built ahead is part of a checkpoint. Its
    exceptions come out where its item would have. The thread has ended when the context is left, also on an error.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xp-prefetch")
    waiting: deque[Future[T]] = deque()

    def items() -> Iterator[T]:
        submitted = start
        for _ in range(start, stop):
            while submitted < stop and len(waiting) < depth:
                waiting.append(pool.submit(make, submitted))
                submitted += 1
            yield waiting.popleft().result()

    try:
        yield items()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
