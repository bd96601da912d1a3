"""A trace of a few steps, for debug=profile."""

from pathlib import Path

import jax


class Profile:
    """Trace `steps` steps into `folder`, after the first two (they compile). Open it with TensorBoard or Perfetto."""

    def __init__(self, folder: Path, steps: int, start: int):
        """`start` is the number of finished updates when the loop begins."""
        self.folder, self._first, self._last = folder, start + 2, start + 2 + steps
        self._tracing = False

    def before(self, step: int) -> None:
        """Call before the update that follows `step` finished ones."""
        if step == self._first:
            jax.profiler.start_trace(str(self.folder))
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
            jax.profiler.stop_trace()
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
