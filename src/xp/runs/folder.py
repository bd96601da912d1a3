"""A run's folder as a reader sees it."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xp.errors import UserError
from xp.runs.csvlog import read_csv
from xp.runs.reading import read_json
from xp.runs.record import Record

CONFIG, RECORD, JOB, SUMMARY = "config.json", "record.json", "job.json", "summary.json"
TRAINING_LOG, VALIDATION_LOG, LOG, PROGRESS = "training_log.csv", "validation_log.csv", "log.txt", "progress.json"


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
        return as_config(read_json(self.path / CONFIG))

    def record(self) -> Record:
        """Identity, state, host, versions, times; empty (pending) where the run was not begun."""
        return Record(self.path / RECORD)

    def job(self) -> dict[str, Any]:
        """The frozen job: name, stage, needs, overrides, config and its sha256."""
        return read_json(self.path / JOB)

    def summary(self) -> Any:
        """The results a task wrote down at its end; an empty dict if it wrote none."""
        return read_json(self.path / SUMMARY, default={})

    def training_log(self) -> list[dict[str, Any]]:
        """Rows of training_log.csv."""
        return read_csv(self.path / TRAINING_LOG)

    def validation_log(self) -> list[dict[str, Any]]:
        """Rows of validation_log.csv."""
        return read_csv(self.path / VALIDATION_LOG)

    def progress(self) -> dict[str, Any]:
        """The last state of the run's progress bar: description, step, total, unit, rate, shown, time."""
        return read_json(self.path / PROGRESS, default={})

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
    return (path / RECORD).is_file() or (path / JOB).is_file()


def find_runs(root: str | Path) -> list[RunFolder]:
    """All runs at or below `root`, sorted by path. A run's own subfolders are not searched."""
    root = Path(root)
    if is_run(root):
        return [RunFolder(root)]
    if not root.is_dir():
        return []
    children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [run for child in children for run in find_runs(child)]


def as_config(data: dict[str, Any], *, flags: dict[str, bool] | None = None) -> DictConfig:
    """A read-only DictConfig of resolved values, where `${` in a value is text and not an interpolation."""
    config = OmegaConf.create(_escape(data), flags=flags)
    assert isinstance(config, DictConfig)
    OmegaConf.set_readonly(config, True)
    return config


def _escape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escape(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) and "${" in value else value
