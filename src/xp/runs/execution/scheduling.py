"""Keeps libraries from making this process a real-time one, which a machine's other work cannot get past.

The SVT-AV1 encoder, which videos are written with, asks for SCHED_FIFO at the highest priority for the thread
that calls it and for its own, where the user is root (as in most containers): from then on the whole process, and
whatever it starts, pushes everything else off the processors. Without the capability to ask, it encodes all the same.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION = 0x20080522  # linux/capability.h: _LINUX_CAPABILITY_VERSION_3
_SYS_NICE = 1 << 23


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]  # noqa: RUF012 - ctypes wants a list


class _Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]  # noqa: RUF012


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """In the block, this thread and those that it starts cannot become real-time ones; nothing changes elsewhere.

    Where the system has no such capabilities, or the user none, nothing is done.
    """
    taken = drop_realtime()
    try:
        yield
    finally:
        if taken:
            _set(_SYS_NICE)


def drop_realtime() -> bool:
    """Give up the right of this thread, and of those it starts, to real-time scheduling; whether it had it."""
    if sys.platform != "linux":
        return False
    sets = _get()
    if sets is None or not sets[0].effective & _SYS_NICE:
        return False
    return _set(0)


def _get() -> "ctypes.Array[_Sets] | None":
    sets = (_Sets * 2)()
    answer = ctypes.CDLL(None).capget(ctypes.byref(_Header(_VERSION, 0)), sets)
    return sets if answer == 0 else None


def _set(bit: int) -> bool:
    """Set or clear the effective bit of the calling thread; the permitted one stays, so that it can be set again."""
    sets = _get()
    if sets is None:
        return False
    sets[0].effective = (sets[0].effective & ~_SYS_NICE) | bit
    return ctypes.CDLL(None).capset(ctypes.byref(_Header(_VERSION, 0)), sets) == 0
