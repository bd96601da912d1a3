"""How long a job may take: from the steps per second of finished runs like it, and the time around their steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from xp.errors import UserError
from xp.runs.folder import RunFolder, find_runs
from xp.runs.frozen import Job
from xp.runs.record import Record, State

_MOST = 200
"""Runs of other experiments to look at."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What one finished run took."""

    stage: str
    task: str
    model: str
    seconds: float
    """From start to end of its last attempt."""
    steps: int | None = None
    """Training steps of the run; None for a task that has none."""
    rate: float = 0.0
    """Steps per second of the loop itself, measured over that attempt; 0 where it is not known."""

    def seconds_for(self, steps: int | None) -> float:
        """What a run like this one, but with `steps` steps, takes: the time around the loop stays the same."""
        if steps is None or not self.steps or self.rate <= 0:
            return self.seconds
        around = max(0.0, self.seconds - self.steps / self.rate)
        return around + steps / self.rate


def pace_of(run: RunFolder) -> Pace | None:
    """The pace of a run that is done; None if it is not, or is damaged."""
    try:
        record = run.record()
        if record.state is not State.DONE or record.seconds is None:
            return None
        config, progress = run.job().get("config", {}), run.progress()
    except UserError:
        return None
    steps = steps_of(config)
    counted = steps is not None and progress.get("total") == steps
    return Pace(
        stage=record.get("stage", ""),
        task=record.get("task", ""),
        model=_model(config),
        seconds=record.seconds,
        steps=steps,
        rate=float(progress.get("rate") or 0.0) if counted else 0.0,
    )


def steps_of(config: Mapping[str, Any]) -> int | None:
    """The number of steps of a training; None for another task."""
    task, trainer = config.get("task"), config.get("trainer")
    if not isinstance(task, Mapping) or task.get("name") != "train" or not isinstance(trainer, Mapping):
        return None
    steps = trainer.get("steps")
    return steps if isinstance(steps, int) else None


class Paces:
    """The paces of an experiment's finished runs and, where it has none of a kind, of those beside it."""

    def __init__(self, experiment: Path):
        self._folder = experiment
        self._own = _paces(find_runs(experiment)) if experiment.is_dir() else []
        self._others: list[Pace] | None = None

    def expected(self, job: Job) -> float | None:
        """Seconds that are left of a job: median over runs of its stage, else of its task and model, else of its task.

        Of a run that was begun, only the steps that it has not done yet are counted.
        """
        alike = self._alike(job)
        if not alike:
            return None
        return median(pace.seconds_for(_left(job)) for pace in alike)

    def _alike(self, job: Job) -> Sequence[Pace]:
        model = _model(job.config)
        return (
            [pace for pace in self._own if pace.stage == job.stage]
            or [pace for pace in self._own if (pace.task, pace.model) == (job.task, model)]
            or [pace for pace in self._own if pace.task == job.task]
            or [pace for pace in self._beside() if (pace.task, pace.model) == (job.task, model)]
        )

    def _beside(self) -> Sequence[Pace]:
        if self._others is None:
            siblings = sorted(self._folder.parent.glob("*/*/record.json")) if self._folder.parent.is_dir() else []
            runs = [RunFolder(path.parent) for path in siblings if path.parent.parent != self._folder]
            self._others = _paces(runs[-_MOST:])
        return self._others


def _paces(runs: Iterable[RunFolder]) -> list[Pace]:
    return [pace for run in runs if (pace := pace_of(run)) is not None]


def _model(config: Mapping[str, Any]) -> str:
    model = config.get("model")
    return str(model.get("name", "")) if isinstance(model, Mapping) else ""


def _left(job: Job) -> int | None:
    steps = steps_of(job.config)
    if steps is None or not Record(job.folder / "record.json").get("attempts"):
        return steps
    progress = RunFolder(job.folder).progress()
    done = progress.get("step", 0) if progress.get("total") == steps else 0
    return max(0, steps - int(done or 0))
