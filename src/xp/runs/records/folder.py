"""A run's folder as a reader sees it."""

import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from xp.errors import UserError
from xp.json_types import JSON, JSONObject
from xp.runs.records.csvlog import Cell, read_csv
from xp.runs.records.json_io import read_json, read_object
from xp.runs.records.record import Record

CONFIG, RECORD, JOB, SUMMARY = "config.json", "record.json", "job.json", "summary.json"
TRAINING_LOG, VALIDATION_LOG, LOG, PROGRESS = "training_log.csv", "validation_log.csv", "log.txt", "progress.json"


_DEEPEST = 32
"""Levels of folders below which no runs are looked for."""


class RunFolder:
    """Read-only view of one run's folder. Nothing is cached: each call reads what is there now."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The folder's name, which is the job's name in an experiment."""
        return self.path.name

    def config(self) -> DictConfig:
        """The resolved configuration (secrets redacted), read-only.

        Values are taken as they stand: text that looks like an interpolation stays text.
        """
        return as_config(read_object(self.path / CONFIG))

    def record(self) -> Record:
        """Identity, state, host, versions, times; empty (pending) where the run was not begun."""
        return Record(self.path / RECORD)

    def job(self) -> dict[str, JSON]:
        """The frozen job: name, stage, needs, overrides, config and its sha256."""
        return read_object(self.path / JOB)

    def summary(self) -> JSON:
        """The results a task wrote down at its end; an empty dict if it wrote none."""
        return read_json(self.path / SUMMARY, default={})

    def training_log(self) -> list[dict[str, Cell]]:
        """Rows of training_log.csv."""
        return read_csv(self.path / TRAINING_LOG)

    def validation_log(self) -> list[dict[str, Cell]]:
        """Rows of validation_log.csv."""
        return read_csv(self.path / VALIDATION_LOG)

    def progress(self) -> dict[str, JSON]:
        """The last state of the run's progress bar: description, step, total, unit, rate, shown, time."""
        return read_object(self.path / PROGRESS, default={})

    def log(self) -> str:
        """The text of log.txt."""
        path = self.path / LOG
        return path.read_text(errors="replace") if path.exists() else ""


def load_run(path: str | Path) -> RunFolder:
    """Open a run's folder.

    Raises:
        UserError: there is no such folder, or it is not a run's.
    """
    folder = RunFolder(path)
    if not folder.path.is_dir():
        raise UserError(
            f"There is no folder {path}. Give the folder of a run, such as outputs/NAME or multirun/EXPERIMENT/JOB; "
            "`xp task=status` lists the runs there are."
        )
    if not is_run(folder.path):
        raise UserError(
            f"{path} is not the folder of a run: it holds neither {RECORD} nor {JOB}. An experiment's folder holds one "
            "folder per job; give one of those."
        )
    return folder


def is_run(path: str | Path) -> bool:
    """True if `path` is the folder of a run, begun or frozen."""
    path = Path(path)
    return any(os.path.lexists(path / name) for name in (RECORD, JOB))  # whatever it is: reading tells what is wrong


def find_runs(root: str | Path) -> list[RunFolder]:
    """All runs at or below `root`, sorted by path. A run's own subfolders are not searched."""
    root = Path(root)
    return [RunFolder(path) for path in _runs_below(root, 0)]


def _runs_below(root: Path, depth: int) -> Iterator[Path]:
    """Links to folders are not followed: one may lead back, or out of what was asked about."""
    try:
        with os.scandir(root) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.name in (RECORD, JOB) for entry in entries):
        yield root
    elif depth < _DEEPEST:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield from _runs_below(root / entry.name, depth + 1)


def as_config(data: JSONObject, *, flags: dict[str, bool] | None = None) -> DictConfig:
    """A read-only DictConfig of resolved values, where `${` in a value is text and not an interpolation."""
    config = OmegaConf.create({key: _escape(value) for key, value in data.items()}, flags=flags)
    assert isinstance(config, DictConfig)
    OmegaConf.set_readonly(config, True)
    return config


def _escape(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escape(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) and "${" in value else value
