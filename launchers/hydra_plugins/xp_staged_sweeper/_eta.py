"""How long a job may take: from the steps per second of finished runs like it, and the time around their steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from xp.errors import UserError
from xp.json_types import JSONObject, section
from xp.runs.jobs.frozen import Job
from xp.runs.records.folder import RECORD, RunFolder, find_runs
from xp.runs.records.record import Record, State

_MOST = 200
"""Runs to look at that are no jobs of the plan."""
_OF_A_STAGE = 50
"""Finished jobs of each stage to look at."""


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
        config, progress = section(run.job(), "config"), run.progress()
    except UserError:
        return None
    steps = steps_of(config)
    counted = steps is not None and progress.get("total") == steps
    return Pace(
        stage=record.text("stage"),
        task=record.text("task"),
        model=_model(config),
        seconds=record.seconds,
        steps=steps,
        rate=_number(progress, "rate") if counted else 0.0,
    )


def steps_of(config: JSONObject) -> int | None:
    """The number of steps of a training; None for another task."""
    task, trainer = config.get("task"), config.get("trainer")
    if not isinstance(task, Mapping) or task.get("name") != "train" or not isinstance(trainer, Mapping):
        return None
    steps = trainer.get("steps")
    return steps if isinstance(steps, int) else None


class Paces:
    """The paces of an experiment's finished runs and, where it has none of a kind, of those beside it.

    Args:
        experiment: its folder.
        done: {stage: folders of its jobs that are done}; of each stage, and of whatever else is in the folder, a few
            are looked at, spread evenly, so that thousands of finished runs cost no more than some of them.
    """

    def __init__(self, experiment: Path, done: Mapping[str, Sequence[Path]] | None = None):
        self._folder = experiment
        planned = {folder for folders in (done or {}).values() for folder in folders}
        others = [run.path for run in find_runs(experiment) if run.path not in planned] if experiment.is_dir() else []
        chosen = [folder for folders in (done or {}).values() for folder in _spread(folders, _OF_A_STAGE)]
        self._own = _paces(RunFolder(folder) for folder in (*chosen, *_spread(others, _MOST)))
        self._others: list[Pace] | None = None
        self._kinds: dict[tuple[str, ...], Sequence[Pace]] = {}
        self._expected: dict[tuple[str | int | None, ...], float] = {}

    def expected(self, job: Job, record: Record | None = None) -> float | None:
        """Seconds that are left of a job: median over runs of its stage, else of its task and model, else of its task.

        Of a run that was begun (its `record`, read before or now), only the steps that it has not done yet are counted.
        """
        kind = (job.stage, job.task, _model(job.config))
        if kind not in self._kinds:
            self._kinds[kind] = self._alike(*kind)
        alike = self._kinds[kind]
        if not alike:
            return None
        left = _left(job, record)
        if (*kind, left) not in self._expected:
            self._expected[*kind, left] = median(pace.seconds_for(left) for pace in alike)
        return self._expected[*kind, left]

    def _alike(self, stage: str, task: str, model: str) -> Sequence[Pace]:
        return (
            [pace for pace in self._own if pace.stage == stage]
            or [pace for pace in self._own if (pace.task, pace.model) == (task, model)]
            or [pace for pace in self._own if pace.task == task]
            or [pace for pace in self._beside() if (pace.task, pace.model) == (task, model)]
        )

    def _beside(self) -> Sequence[Pace]:
        if self._others is None:
            siblings = sorted(self._folder.parent.glob("*/*/record.json")) if self._folder.parent.is_dir() else []
            runs = [RunFolder(path.parent) for path in siblings if path.parent.parent != self._folder]
            self._others = _paces(runs[-_MOST:])
        return self._others


def _spread(folders: Sequence[Path], most: int) -> Sequence[Path]:
    """At most so many of them, at equal distances."""
    if len(folders) <= most:
        return folders
    return [folders[number * len(folders) // most] for number in range(most)]


def _paces(runs: Iterable[RunFolder]) -> list[Pace]:
    return [pace for run in runs if (pace := pace_of(run)) is not None]


def _model(config: JSONObject) -> str:
    model = config.get("model")
    return str(model.get("name", "")) if isinstance(model, Mapping) else ""


def _left(job: Job, record: Record | None) -> int | None:
    steps = steps_of(job.config)
    if steps is None:
        return None
    record = Record(job.folder / RECORD) if record is None else record
    if not record.get("attempts"):
        return steps
    progress = RunFolder(job.folder).progress()
    done = _number(progress, "step") if progress.get("total") == steps else 0
    return max(0, steps - int(done))


def _number(progress: JSONObject, name: str) -> float:
    value = progress.get(name)
    return value if isinstance(value, int | float) else 0.0
