# pyright: strict
"""How a merge reports on itself, and how it is asked to stop."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Bar(Protocol):
    """A progress bar."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more."""
        ...


class _NoBar:
    def advance(self, n: int = 1) -> None:
        """Nothing to show."""


@dataclass(frozen=True)
class Hooks:
    """How a merge reports on itself and is stopped; the defaults do nothing."""

    progress: Callable[[int, str, str], AbstractContextManager[Bar]] | None = None
    """(total, description, unit) -> a context that gives a bar."""
    log: Callable[[str], None] = lambda line: None
    stop: Callable[[], None] = lambda: None
    """Called often; raises to end the merge."""

    def bar(self, total: int, description: str, unit: str) -> AbstractContextManager[Bar]:
        """The progress context, or one that counts nothing."""
        return nullcontext(_NoBar()) if self.progress is None else self.progress(total, description, unit)
