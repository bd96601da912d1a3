"""How long the rest of a running sweep takes: what each job was expected to take, scaled by the speed measured here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xp.runs.executors.protocol import JobState


@dataclass
class TimeLeft:
    """Watches jobs start and end.

    Args:
        expected: {folder: seconds that the job may take}; None where nothing is known of it.
        workers: jobs at a time.
    """

    expected: Mapping[Path, float | None]
    workers: int = 1
    _began: dict[Path, float] = field(default_factory=dict)
    _took: dict[Path, float] = field(default_factory=dict)
    _open: set[Path] = field(default_factory=set)

    def note(self, states: Mapping[Path, JobState], now: float) -> None:
        """Take in how the jobs stand at a moment (seconds of any clock)."""
        for folder, state in states.items():
            if state is JobState.RUNNING:
                self._began.setdefault(folder, now)
            elif state is JobState.DONE and folder in self._began and folder not in self._took:
                self._took[folder] = now - self._began[folder]
        self._open = {folder for folder, state in states.items() if not state.ended}

    @property
    def speed(self) -> float:
        """What jobs took over what was expected of them, over all that have ended; 1 until one has."""
        known = [(took, expected) for folder, took in self._took.items() if (expected := self.expected.get(folder))]
        return sum(took for took, _ in known) / sum(expected for _, expected in known) if known else 1.0

    def seconds(self, now: float) -> float | None:
        """Seconds until the last job ends, if the workers are kept busy; None where a job's time is unknown."""
        left: list[float] = []
        for folder in self._open:
            expected = self.expected.get(folder)
            if expected is None:
                return None
            passed = now - self._began[folder] if folder in self._began else 0.0
            left.append(max(0.0, self.speed * expected - passed))
        return max(sum(left) / max(1, self.workers), max(left)) if left else None
