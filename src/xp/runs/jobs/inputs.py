"""What a run read from outside: the content of its datasets, manifests and foreign checkpoints, so that a file that was
replaced under a finished or begun run is noticed.

`inputs.json` in the run's folder holds a digest of every file (relative names; folder, times and owner do not count: a
copy is the same). Identity, which is about the configuration, stays as it is. A file is hashed whole up to 64 MiB, and
whole up to 2 GiB if it is parquet, JSON or CSV; of a larger one (videos, weights) the size and 64 evenly spread blocks
of 64 KiB count, first and last among them. Whose size, inode and times of change are as they were is not read again.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from xp.atomic import write_json
from xp.checkpoints.reference import CheckpointRef
from xp.checkpoints.run_layout import checkpoint_steps
from xp.config.schema import SUITES
from xp.errors import UserError
from xp.foreign.paths import MissingError
from xp.json_types import JSON, JSONObject, section
from xp.plugins import find_entry
from xp.runs.jobs.content import content_of
from xp.runs.records.folder import RECORD, SUMMARY
from xp.runs.records.json_io import read_json
from xp.runs.records.record import Record, State

INPUTS = "inputs.json"
KEYS = (
    "data.root", "data.split", "data.statistics", "pretrained_path", "predict.checkpoint", "predict.data_root",
    "eval.checkpoint", "eval.data_root", "dump.checkpoint", "merge.checkpoints", "merge.base",
    "convert.checkpoint",
)  # fmt: skip
"""The keys that name what a task reads. Runs count by their identity, and by what they in turn have read.

A suite may read files, too: `input_files(env)`, where it has that, gives {key: files}.
"""
_MEMBER = re.compile(r"data\.mix\..+\.(root|split|episode_weights)")
"""Of each dataset of a mixture."""
_WRITES_DATA = ("collect", "report", "status", "gc", "cancel", "attach")
_READS_THE_RUNS_DATA = ("predict", "dump")
_WHOLE, _WHOLE_TABLE, _BLOCK, _BLOCKS = 64 << 20, 2 << 30, 1 << 16, 64
_TABLES = (".parquet", ".json", ".jsonl", ".csv")
_MOST_FILES = 20_000

Marks = tuple[int, int, int]
"""Size, inode, time of change in ns."""


@dataclass(frozen=True)
class _Input:
    """Something that a task reads from outside."""

    key: str
    path: Path
    run: Path | None = None
    """The run whose input it is too."""
    members: tuple[Path, ...] | None = None
    """The files that count, of all that lie beside `path`; None: `path`, or all below it."""


Files = dict[str, tuple[str, Marks]]
"""Relative name -> (digest, marks); a list [digest, size, inode, time] in inputs.json."""


def record_inputs(folder: Path, config: JSONObject, *, begun: bool) -> dict[str, str]:
    """Write down what a run is about to read; one that goes on must find what it was begun with.

    Args:
        folder: the run's folder.
        config: the resolved configuration.
        begun: an earlier attempt began it. One that left no checkpoint begins anew with what there is now.

    Returns:
        {key: content of what it names} (`xp.runs.jobs.content`), for the record.

    Raises:
        UserError: an input was changed since; names the key and the files.
    """
    if begun and checkpoint_steps(folder) and (folder / INPUTS).exists():
        refuse_changed(folder, config)
        return _contents(folder)
    known = _marks(_recorded(folder))
    found = {}
    for each in _inputs(config):
        known.update(_marks(_recorded(each.run)) if each.run else {})
        read = _files(each.path, known, each.members)
        content = content_of(config, each.key, each.path, {name: digest for name, (digest, _marks) in read.items()})
        files = {name: [digest, *marks] for name, (digest, marks) in read.items()}
        found[each.key] = {"path": str(each.path), "content": content, "files": files}
    if found:
        write_json(folder / INPUTS, found)
    return _contents(folder)


def _contents(folder: Path) -> dict[str, str]:
    """{key: content} of what a folder's inputs.json says; nothing of one that an earlier version wrote."""
    found = read_json(folder / INPUTS, default={})
    entries = found.items() if isinstance(found, dict) else ()
    given = {key: entry.get("content") for key, entry in entries if isinstance(entry, dict)}
    return {key: content for key, content in given.items() if isinstance(content, str)}


def refuse_changed(folder: Path, config: JSONObject) -> None:
    """Refuse to take a run for what the same command would give now if what it read has changed.

    A run of an earlier version knows no inputs, and an input that is gone cannot be compared: neither is refused.

    Raises:
        UserError: names the key, the files that differ, and what to type.
    """
    recorded = _recorded(folder)
    if not recorded or (Record(folder / RECORD).state is State.FAILED and not checkpoint_steps(folder)):
        return
    for each in _inputs(config):
        before = recorded.get(each.key)
        if not before:
            continue
        now = _lately(str(each.path), tuple(before.values()), _period(), each.members)
        then = {name: digest for name, (digest, _marks) in before.items()}
        names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        if names:
            raise UserError(_text(folder, each.key, each.path, names))


def _text(folder: Path, key: str, path: Path, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"{folder} was made with other content of {key}={path} than is there now (changed: {shown}). Its results are "
        "about what was there. Put that back; or give this run another place (hydra.run.dir=FOLDER for a run, "
        "hydra.sweep.dir=FOLDER for a sweep or experiment); or remove that folder to make it anew."
    )


def _inputs(config: JSONObject) -> Iterator[_Input]:
    """What a task reads; what is in a run counts by that run's identity.

    A policy measured on the dataset of its own training reads that: `predict.checkpoint's dataset`.
    """
    task = section(config, "task").get("name", "")
    result_config = _result_config(config) if task not in _WRITES_DATA else {}
    for key in (*KEYS, *(key for key in result_config if _MEMBER.fullmatch(key))):
        given = result_config.get(key)
        for number, value in enumerate(given if isinstance(given, list) else [given]):
            if not isinstance(value, str) or not value:
                continue
            path = Path(CheckpointRef.parse(value).path).absolute()
            run = next((place for place in (path, *list(path.parents)[:4]) if (place / RECORD).is_file()), None)
            if run is None and path.exists():
                yield _Input(f"{key}[{number}]" if isinstance(given, list) else key, path)
            elif run is not None and key.endswith(".checkpoint") and not result_config.get(f"{task}.data_root"):
                root = _dataset_of(run)
                if root is not None and task in _READS_THE_RUNS_DATA:
                    yield _Input(f"{key}'s dataset", root, run)
    yield from _of_the_suite(config)


def _of_the_suite(config: JSONObject) -> Iterator[_Input]:
    """What the suite reads, where the task simulates; nothing where its files are gone: then there is no content."""
    env = section(config, "env")
    if not env or not any(key.startswith("env.") for key in _result_config(config)):
        return
    suite = find_entry(SUITES, str(env.get("name")), "env.name").load()
    input_files = getattr(suite, "input_files", None)
    if input_files is None:
        return
    try:
        found = input_files(env)
    except MissingError:
        return
    for key, files in found.items():
        yield _Input(key, files[0], members=tuple(files))


def _result_config(config: JSONObject) -> JSONObject:
    from xp.config.identity_keys import IDENTITY_KEYS_BY_TASK, result_config

    return result_config(config) if section(config, "task").get("name") in IDENTITY_KEYS_BY_TASK else {}


def _dataset_of(run: Path) -> Path | None:
    summary = read_json(run / SUMMARY, default={})
    data = summary.get("data") if isinstance(summary, dict) else None
    root = data.get("root") if isinstance(data, dict) else None
    return Path(root) if isinstance(root, str) and Path(root).is_dir() else None


def _files(path: Path, known: Mapping[Marks, str], members: tuple[Path, ...] | None = None) -> Files:
    """The files below a path (or the path itself, or `members` beside it) with their digests."""
    inside = (each for each in path.rglob("*") if each.is_file())
    found: Files = {}
    for each in members or ([path] if path.is_file() else sorted(islice(inside, _MOST_FILES))):
        relative = each.relative_to(path.parent if members or each == path else path).as_posix()
        if any(part.startswith(".") for part in Path(relative).parts):
            continue  # locks and caches that tools leave beside the data
        there = each.stat()
        marks = (there.st_size, there.st_ino, there.st_ctime_ns)
        found[relative] = (known.get(marks) or _digest(each, there.st_size), marks)
    return found


def _digest(path: Path, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE or (path.suffix in _TABLES and size <= _WHOLE_TABLE):
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            for i in range(_BLOCKS):
                file.seek((size - _BLOCK) * i // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:32]


@lru_cache(maxsize=64)
def _lately(
    path: str, files: tuple[tuple[str, Marks], ...], _: int, members: tuple[Path, ...] | None
) -> dict[str, str]:
    """Name -> digest of what is at a path; looked up once for all jobs of a plan that read the same."""
    known = {marks: digest for digest, marks in files}
    return {name: digest for name, (digest, _marks) in _files(Path(path), known, members).items()}


def _period() -> int:
    return int(time.monotonic() // 10)


def _recorded(folder: Path) -> dict[str, Files]:
    """Key -> files, of what a folder's inputs.json says."""
    found = read_json(folder / INPUTS, default={})
    entries = found.items() if isinstance(found, dict) else ()
    return {key: _valid(entry.get("files")) for key, entry in entries if isinstance(entry, dict)}


def _marks(recorded: Mapping[str, Files]) -> dict[Marks, str]:
    """(size, inode, time of change) -> digest."""
    return {marks: digest for files in recorded.values() for digest, marks in files.values()}


def _valid(files: JSON) -> Files:
    """What a file of ours says, and nothing where it says something else."""
    if not isinstance(files, Mapping):
        return {}
    found: Files = {}
    for name, each in files.items():
        match each:
            case [str(digest), int(size), int(inode), int(changed)] if bool not in map(type, each):
                found[name] = digest, (size, inode, changed)
            case _:
                return {}
    return found
