# pyright: strict
"""When Python's collector of cyclic garbage looks: not while much is imported or built, not when the process ends.

What is imported stays, and each look walks all of it: for LeRobot's policies that is two of ten seconds of processor
time, and one and a half more at the end of the process.
"""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def paused() -> Generator[None]:
    """Collect nothing inside; afterwards as before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def spare_the_end() -> None:
    """Let the end of the process walk nothing: what is still in cycles goes with the process's memory."""
    gc.freeze()
