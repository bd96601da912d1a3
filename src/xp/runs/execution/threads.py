"""How many threads a computation takes: one rule for single runs and every launcher. Standard library only.

The number changes how sums are divided, and so the last bits of a result. It is therefore a constant, whatever the
machine, its load, the launcher or the number of jobs beside; a user's choice (`OMP_NUM_THREADS`, or the launcher's
`threads`) stands before it. Threads without work sleep, so that more threads than free cores cost next to nothing:
spinning, the default of OpenMP, takes the cores away from whoever computes (torch on two cores beside other work: 109 s
for what takes 16 s asleep). What is there (cores, load) is written down beside the number.
"""

import os
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xp.errors import UserError

DEFAULT = 4
"""Threads where nobody says otherwise."""
FIRST = "OMP_NUM_THREADS"
"""The variable by which a user chooses; torch, OpenMP and MKL read it."""
COUNTS = (
    FIRST, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NPROC",  # XLA's CPU client reads it
)  # fmt: skip
ASLEEP = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    "OPENBLAS_THREAD_TIMEOUT": "4",  # 2^4 cycles, the least that OpenBLAS takes
}
"""What lets idle threads sleep at once: OpenMP of GNU and LLVM, OpenBLAS. They are read when a library is loaded."""
_FRAMEWORKS = ("torch", "jax", "numpy")
_MOST = 4096


@dataclass(frozen=True)
class ThreadFacts:
    """What the record says of a process's threads."""

    number: int
    waiting: str
    """How threads without work wait: `passive` (asleep), `active`, or `unknown`."""
    cores: int
    """Allotted to this process."""
    load: float
    """Of the machine, over the last minute."""


def environment(threads: int | None = None, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that give a process its threads.

    Args:
        threads: What a launcher was told; None for the user's `OMP_NUM_THREADS`, else the default.
        given: An environment whose choices stand; default: this process's.

    Returns:
        Number and waiting, for a process that has not loaded its libraries yet.

    Raises:
        UserError: `OMP_NUM_THREADS` is no number that a process can have.
    """
    given = os.environ if given is None else given
    if threads is not None:
        return {**_waiting(given), **dict.fromkeys(COUNTS, str(threads))}
    number = str(_chosen(given.get(FIRST)) or DEFAULT)
    counts = {name: given.get(name) or number for name in COUNTS}
    return {**_waiting(given), **counts, FIRST: number}


def settle(environment_: MutableMapping[str, str] | None = None) -> None:
    """Give this process its threads; call it before a framework is imported."""
    target = os.environ if environment_ is None else environment_
    target.update(environment(given=target))


def resume(before: object) -> str | None:
    """Take the number that a run was begun with, so that it goes on to the same bits.

    Args:
        before: `threads` of the run's record, the fields of `ThreadFacts`; anything else counts as unknown.

    Returns:
        A warning where the numbers differ and this process cannot, or is not to, change its own.
    """
    number = before.get("number") if isinstance(before, Mapping) else None
    now = facts().number
    if not isinstance(number, int) or not 0 < number <= _MOST or number == now:
        return None
    if now == DEFAULT and not any(name in sys.modules for name in _FRAMEWORKS):
        os.environ.update(environment(number))
        return None
    return (
        f"Warning: this run was begun with {number} threads and goes on with {now}: its last digits may differ from "
        f"those of a run that was not interrupted. {FIRST}={number} before the command gives it the same number."
    )


def facts() -> ThreadFacts:
    """The threads of this process, and the machine beside them."""
    waiting = os.environ.get("OMP_WAIT_POLICY", "").lower() or "unknown"
    return ThreadFacts(
        number=_chosen(os.environ.get(FIRST)) or cores(),
        waiting=waiting,
        cores=cores(),
        load=round(os.getloadavg()[0], 1),
    )


def line() -> str:
    """What the log says of `facts`."""
    now = facts()
    busy = f"; the machine is busy (load {now.load:g})" if now.load > now.cores else ""
    return f"threads: {now.number}, on {now.cores} cores{busy}; {FIRST}=N before the command chooses another number"


def cores() -> int:
    """Cores allotted to this process: its affinity, its control group's quota and SLURM's `--cpus-per-task`."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allotted = [there, *_quota(), *_slurm()]
    return max(1, min(allotted))


def _slurm() -> list[int]:
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    return [int(given)] if given.isdecimal() else []


def _quota(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Whole cores of the control group's quota, where there is one: version 2's cpu.max, else version 1's pair."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (root / "cpu.max").read_text().split()
        return [-(-int(quota) // int(period))]
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((root / "cpu" / "cpu.cfs_period_us").read_text())
        return [-(-quota // period)] if quota > 0 else []
    return []


def _chosen(text: str | None) -> int | None:
    """The number in `OMP_NUM_THREADS`; OpenMP allows a list, of which the first counts."""
    if not text:
        return None
    first = text.split(",")[0].strip()
    if first.isdecimal() and 0 < int(first) <= _MOST:
        return int(first)
    raise UserError(f"{FIRST}={text} is not a number of threads. Type a whole number from 1 to {_MOST}, or unset it.")


def _waiting(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given.get(name) or value for name, value in ASLEEP.items()}
