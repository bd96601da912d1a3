"""Reads an experiment from its run folders: files only; a damaged folder becomes a marked entry, not a crash."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from xp.errors import UserError
from xp.json_types import JSON, JSONObject
from xp.report.json_values import is_number, section
from xp.runs import RunFolder, find_runs
from xp.runs.records.folder import CONFIG, is_run
from xp.runs.records.json_io import read_object

_CELL_NAME = re.compile(r"train_h(\d+)_pred_h(\d+)")
_SHOWN = {"figures": ("*.png",), "videos": ("*.mp4", "*.webm", "*.gif")}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run as a report sees it. `name` is its path below the experiment's folder."""

    name: str
    folder: Path
    standing: str
    """pending, running, done, failed, cancelled, interrupted, or damaged."""
    config: JSONObject = field(default_factory=dict)
    record: JSONObject = field(default_factory=dict)
    job: JSONObject = field(default_factory=dict)
    summary: JSON = field(default_factory=dict)
    metrics: JSONObject = field(default_factory=dict)
    training: Sequence[JSONObject] = ()
    """A row for each logged step, as in training_log.csv."""
    validation: Sequence[JSONObject] = ()
    problem: str = ""
    """Why it failed: a sentence; the whole traceback is in `traceback`."""
    traceback: str = ""
    seconds: float | None = None
    videos: tuple[str, ...] = ()
    """Paths below the experiment's folder, as those of `figures`."""
    figures: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The task's name, or an empty string."""
        task = self.config.get("task", "")
        return str(task.get("name", "")) if isinstance(task, Mapping) else str(task)

    @cached_property
    def flat(self) -> JSONObject:
        """The configuration by dotted keys."""
        return flat(self.config)

    @property
    def stage(self) -> str:
        """The stage of the experiment that the run belongs to; the task's name where it has none."""
        return str(self.job.get("stage") or self.record.get("stage") or self.task or "runs")

    @property
    def horizons(self) -> tuple[int, int] | None:
        """(trained, predicted) of a prediction run, else None."""
        if {"training_horizon", "prediction_horizon"} <= set(self.metrics):
            return _pair(self.metrics["training_horizon"], self.metrics["prediction_horizon"])
        horizon = section(self.config, "horizon")
        if self.task == "predict" and {"train", "predict"} <= set(horizon):
            return _pair(horizon["train"], horizon["predict"])
        match = _CELL_NAME.search(self.name)
        return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A folder of runs, in natural order of their names (h4 before h16)."""

    folder: Path
    runs: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def is_single_run(self) -> bool:
        """True if the folder is itself a run's, so that its own files must be left alone."""
        return is_run(self.folder)

    @cached_property
    def predictions(self) -> tuple[Entry, ...]:
        """The runs that are (or were meant to be) cells of the horizon matrix."""
        return tuple(run for run in self.runs if run.horizons)

    @cached_property
    def trainings(self) -> tuple[Entry, ...]:
        """The runs with a training log."""
        return tuple(run for run in self.runs if run.training or run.validation)

    @cached_property
    def broken(self) -> tuple[Entry, ...]:
        """The runs that have no result and will not get one by waiting."""
        return tuple(run for run in self.runs if run.standing in ("failed", "damaged", "cancelled"))

    def stages(self, runs: tuple[Entry, ...] | None = None) -> dict[str, list[Entry]]:
        """Runs by stage, stages in order of their first run."""
        groups: dict[str, list[Entry]] = {}
        for run in self.runs if runs is None else runs:
            groups.setdefault(run.stage, []).append(run)
        return groups


def read_experiment(folder: str | Path) -> Experiment:
    """Read every run at or below `folder`, except the report's own.

    Raises:
        UserError: the folder does not exist or holds no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder} to report on. Give the folder of an experiment or of a run, such as "
            "multirun/multi_horizon; `xp task=status` lists what there is."
        )
    entries = [_read_entry(run, folder) for run in find_runs(folder)]
    entries = [entry for entry in entries if entry.task != "report" or entry.standing in ("failed", "damaged")]
    if not entries:
        raise UserError(
            f"{folder} holds no run to report on: no folder in it has a record.json or job.json. Give the folder of an "
            "experiment, such as multirun/multi_horizon, or run one first: python -m xp +experiment=multi_horizon -m"
        )
    return Experiment(folder=folder, runs=tuple(sorted(entries, key=lambda entry: natural_order(entry.name))))


def natural_order(name: str) -> list[tuple[int, float, str]]:
    """Sorting key by which h4 comes before h16 and lr=3e-5 before lr=1e-4."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", name)
    return [(1, float(part), "") if index % 2 else (0, 0.0, part) for index, part in enumerate(parts)]


def flat(config: JSONObject, prefix: str = "") -> dict[str, JSON]:
    """A nested mapping as dotted keys; lists stay values."""
    result: dict[str, JSON] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def _read_entry(run: RunFolder, root: Path) -> Entry:
    troubles: list[str] = []
    nothing: dict[str, JSON] = {}
    job = _try(lambda: read_object(run.path / "job.json", default=nothing), nothing, troubles)
    frozen = section(job, "config")
    config = _try(lambda: read_object(run.path / CONFIG, default=frozen), nothing, troubles)
    record = _try(run.record, None, troubles)
    standing = _try(lambda: record.standing, "damaged", troubles) if record is not None else "damaged"
    summary = _try(run.summary, nothing, troubles)
    metrics = _try(lambda: read_object(run.path / "metrics.json", default=nothing), nothing, troubles)
    training, validation = _try(run.training_log, [], troubles), _try(run.validation_log, [], troubles)
    record_data = dict(record or {})
    return Entry(
        name="." if run.path == root else run.path.relative_to(root).as_posix(),
        folder=run.path,
        standing="damaged" if troubles else standing,
        config=config,
        record=record_data,
        job=job,
        summary=summary,
        metrics=metrics,
        training=training,
        validation=validation,
        problem=" ".join(troubles) or _problem(record_data),
        traceback=str(record_data.get("traceback") or ""),
        seconds=_try(lambda: record.seconds, None, []) if record is not None else None,
        videos=tuple(_below(run.path, root, "videos")),
        figures=tuple(_below(run.path, root, "figures")),
    )


def _pair(one: JSON, other: JSON) -> tuple[int, int] | None:
    """Two whole numbers as a file has them; None where one is something else."""
    if is_number(one) and is_number(other) and float(one).is_integer() and float(other).is_integer():
        return int(one), int(other)
    return None


def _try[T](read: Callable[[], T], default: T, troubles: list[str]) -> T:
    """What `read` gives; the default and a note in `troubles` where a file is damaged."""
    try:
        return read()
    except (UserError, ValueError, TypeError, KeyError) as error:
        troubles.append(str(error))
        return default


def _problem(record: JSONObject) -> str:
    """The failure in one sentence: the recorded message, or the last line of the traceback."""
    error = record.get("error")
    if isinstance(error, Mapping):
        kind, message = str(error.get("type") or ""), str(error.get("message") or "")
        return message if kind in ("", "UserError") else f"{kind}: {message}"
    if error:
        return str(error)
    lines = [line for line in str(record.get("traceback") or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _below(folder: Path, root: Path, kind: str) -> list[str]:
    found = (path for pattern in _SHOWN[kind] for path in (folder / kind).glob(pattern))
    return sorted((path.relative_to(root).as_posix() for path in found), key=natural_order)
