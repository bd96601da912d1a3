"""Being asked to leave: SIGTERM, SIGUSR2 (SLURM's warning before the time limit) and Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ASKED_BY = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class RunInterrupted(Exception):  # noqa: N818 - an ending, not an error
    """A task raises this after `should_stop()`, once its checkpoint is written."""


class Stop:
    """Whether somebody asked the run to write a checkpoint and leave."""

    def __init__(self):
        self.asked: signal.Signals | None = None

    def ask(self, number: int, _frame: object = None) -> None:
        """Note the request; a second Ctrl-C does not wait for the checkpoint."""
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)

    def __bool__(self) -> bool:
        return self.asked is not None


@contextmanager
def listening() -> Iterator[Stop]:
    """Listen for requests to leave while the block runs; the handlers of before are restored.

    Signals reach the main thread only: elsewhere nothing is installed and nobody asks. A signal that the process
    ignores stays ignored (as under nohup; a worker leaves Ctrl-C to its controller, which decides for all its jobs).
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heard = [number for number in ASKED_BY if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop.ask) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
