"""How many envs of a suite the memory of this machine, or of this process's share of it, has room for."""

from xp.envs.suite import Suite
from xp.runs.execution.memory import available_memory

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
    """What the system could give; None where nobody says."""
    known = available_memory()
    return None if known is None else known / _MEGABYTE
