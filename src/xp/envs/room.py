"""How many envs of a suite the memory of this machine, or of this process's share of it, has room for."""

from pathlib import Path

from xp.envs.suite import Suite

SHARE = 0.5
"""Of the memory that is free: the rest is for the policy, and for others."""
_MEGABYTE = 1_000_000
_UNBOUNDED = 1 << 30


def envs_that_fit(suite: Suite, free: float | None = None) -> int:
    """How many envs of a suite have room at once; at least one, and without end where it does not say what one takes.

    Args:
        suite: may say what an env takes (`env_megabytes`, see `Suite`).
        free: megabytes that are; by default what the system says.
    """
    each = getattr(suite, "env_megabytes", None)
    free = free_megabytes() if free is None else free
    if each is None or free is None:
        return _UNBOUNDED
    return max(1, int(SHARE * free / each))


def free_megabytes() -> float | None:
    """What the system could give without swapping, or what is left of a container's limit if that is less; None where
    nobody says.
    """
    known = [free for free in (_available(), _left_of_limit()) if free is not None]
    return min(known, default=None)


def _available() -> float | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / _MEGABYTE
    return None


def _left_of_limit() -> float | None:
    """Of a control group of the second version, at the root of what a container sees."""
    folder = Path("/sys/fs/cgroup")
    limit, used = (next(iter(_lines(folder / name)), "") for name in ("memory.max", "memory.current"))
    return (int(limit) - int(used)) / _MEGABYTE if limit.isdigit() and used.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
