"""What a job reads and writes outside of its own folder, from its frozen configuration."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xp.checkpoints.reference import CheckpointRef
from xp.json_types import JSON, JSONObject
from xp.nested import dotted
from xp.runs.jobs.frozen import Job
from xp.runs.records.folder import CONFIG, RECORD
from xp.runs.records.json_io import read_object

PATH_KEYS = (
    "root", "split", "checkpoint", "checkpoints", "data_root", "pretrained_path", "policy", "validation",
    "episode_weights")  # fmt: skip
"""Last parts of keys whose values are paths even without a slash."""
_ELSEWHERE = ("paths.", "logger.", "report.", "status.")
_WRITES = {"collect": ("data.root",)}
"""Keys that name what a task writes."""


@dataclass(frozen=True)
class Inputs:
    """Paths that a job needs on its node."""

    runs: tuple[Path, ...] = ()
    """Folders of runs of the same experiment: they change until they are done."""
    parts: tuple[Path, ...] = ()
    """Paths inside other runs of the same experiment (a dataset that one of them recorded)."""
    fixed: tuple[Path, ...] = ()
    """Datasets and checkpoints from elsewhere: told apart by content."""
    outputs: tuple[Path, ...] = ()
    """Written by the job, outside of its folder."""


def inputs_of(job: Job) -> Inputs:
    """Everything that exists here and that the configuration names, directly or through a run whose data it uses."""
    experiment = job.folder.parent
    needs = tuple(need.folder for need in job.needs if need.folder.is_dir())
    written = _WRITES.get(job.task, ())
    outputs = tuple(_absolute(value) for key, value in _values(job.config) if key in written)
    named = {_absolute(v) for k, v in _values(job.config) if k not in written and _is_path(k, v)}
    named |= {path for folder in (*needs, *named) for path in _data_of(folder)}
    found = sorted(path for path in named if path.exists() and not _around(path, experiment))
    inside = [path for path in found if path.is_relative_to(experiment)]
    covered = (job.folder, *needs)
    parts = tuple(path for path in inside if not any(path.is_relative_to(folder) for folder in covered))
    fixed = tuple(path for path in found if path not in inside)
    return Inputs(needs, parts, _outermost(fixed), tuple(o for o in outputs if not o.is_relative_to(job.folder)))


def skipped_in(path: Path, job: Job) -> tuple[str, ...]:
    """Top-level names of an input that the job does not read: a run's checkpoints, unless one of them is named."""
    if not (path / RECORD).is_file():
        return ()
    named = any(
        value.startswith((f"{path}@", f"{path}/checkpoints")) or _absolute_text(value).startswith(f"{path}@")
        for _, value in _values(job.config)
    )
    return () if named else ("checkpoints",)


def _data_of(folder: Path) -> Iterator[Path]:
    """Datasets that a run was made with: whoever reads the run may open them again."""
    for place in (folder, *folder.parents[:3]):
        if (place / RECORD).is_file():
            config = read_object(place / CONFIG, default={})
            yield from (_absolute(v) for k, v in _values(config) if k.startswith("data.") and _is_path(k, v))
            return


def _is_path(key: str, value: str) -> bool:
    if key.startswith(_ELSEWHERE) or "${" in value or "\n" in value or len(value) > 4096 or not value.strip():
        return False
    return os.sep in value or key.rpartition(".")[2] in PATH_KEYS


def _values(config: JSONObject) -> Iterator[tuple[str, str]]:
    for key, value in dotted(config).items():
        for text in _texts(value):
            yield key, text


def _texts(value: JSON) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _absolute_text(value: str) -> str:
    return os.path.abspath(value)  # noqa: PTH100 - links stay as they are


def _absolute(value: str) -> Path:
    return Path(_absolute_text(str(CheckpointRef.parse(value).path)))


def _around(path: Path, experiment: Path) -> bool:
    """Whether a path contains the experiment or the working folder: never something to send."""
    return experiment.is_relative_to(path) or Path.cwd().is_relative_to(path)


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    found: list[Path] = []
    for path in sorted(paths):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return tuple(found)
