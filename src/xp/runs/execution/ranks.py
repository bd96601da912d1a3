"""Several processes at work on one run: rank 0 owns the run's folder, the others compute and write nothing there."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """Which of the processes that work on a run together this one is; by default the only one."""

    rank: int = 0
    size: int = 1
    port: int = 0
    """Where rank 0 listens on this machine."""
    listener: int | None = None
    """Rank 0: the descriptor of the socket that is bound to `port`."""
    look: Callable[[], None] = lambda: None
    """Rank 0: raises UserError if another rank is gone."""
