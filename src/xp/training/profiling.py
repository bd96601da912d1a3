"""A trace of a few steps, for debug=profile."""

from collections.abc import Callable


class Profile:
    """Trace `steps` steps, after the first two (they compile). The framework's profiler starts and stops the trace."""

    def __init__(self, start: Callable[[], object], stop: Callable[[], object], steps: int, done: int):
        """`done` is the number of finished updates when the loop begins."""
        self._start, self._stop = start, stop
        self._first, self._last = done + 2, done + 2 + steps
        self._tracing = False

    def before(self, step: int) -> None:
        """Call before the update that follows `step` finished ones."""
        if step == self._first:
            self._start()
            self._tracing = True

    def after(self, step: int) -> bool:
        """Call when `step` updates are finished; True when the trace was written just now."""
        if self._tracing and step >= self._last:
            self.close()
            return True
        return False

    def close(self) -> None:
        """Write the trace if one is being taken."""
        if self._tracing:
            self._stop()
            self._tracing = False


class NoProfile:
    """No trace."""

    def before(self, step: int) -> None:
        """Do nothing."""

    def after(self, step: int) -> bool:
        """Do nothing."""
        return False

    def close(self) -> None:
        """Do nothing."""
