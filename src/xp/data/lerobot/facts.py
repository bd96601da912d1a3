"""Facts about a LeRobotDataset folder that checks need before anything heavy is imported: names and JSON only."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from xp.config.dataset_facts import DatasetFacts
from xp.data.lerobot import older
from xp.errors import UserError
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import inside
from xp.json_types import JSONObject

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_CAMERA_PREFIX = "observation.images."
_SINGLE_CAMERA = "observation.image"
_TEXTS = ("task", "__index_level_0__")
"""LeRobot writes the tasks' texts as the index of a pandas table, named or not."""
_MOST_TASKS_BYTES = 4_000_000
"""A larger list of tasks is read when the dataset is opened, not before."""


def camera_name(key: str) -> str | None:
    """The camera that a feature with pictures is: `top` for `observation.images.top`; None for no camera."""
    if key.startswith(_CAMERA_PREFIX):
        return key.removeprefix(_CAMERA_PREFIX)
    return "image" if key == _SINGLE_CAMERA else None


def is_depth(feature: JSONObject) -> bool:
    """Whether a feature is marked as a depth map, in any of the places where LeRobot looks for the mark."""
    infos = [info for info in (feature.get("info"), feature.get("video_info")) if isinstance(info, Mapping)]
    return any(info.get(mark) for info in infos for mark in ("is_depth_map", "video.is_depth_map"))


def folder_facts(root: str | Path) -> DatasetFacts | None:
    """Read `meta/` of a dataset folder; None where opening it will say what is wrong."""
    try:
        description = inside(str(root), "meta/info.json", "the dataset's description")
        is_older = read_fields(description, "the dataset's description").text("codebase_version", "") in older.VERSIONS
        listed = "meta/tasks.jsonl" if is_older else "meta/tasks.parquet"
        tasks = inside(str(root), listed, "the list of tasks")
        features = dict(read_fields(description, "the dataset's description").object("features").objects())
        images = {key: feature for key, feature in features.items() if feature.text("dtype") in ("image", "video")}
        dims = [_width(features.get(key)) for key in ("action", "observation.state")]
    except UserError:
        return None
    named = (camera_name(key) for key, feature in images.items() if not is_depth(feature.content))
    return DatasetFacts(
        tuple(name for name in named if name is not None), _older_tasks(tasks) if is_older else _tasks(tasks), *dims
    )


def _width(feature: Fields | None) -> int:
    shape = () if feature is None else feature.shape("shape")
    return shape[0] if len(shape) == 1 else 0


def _older_tasks(path: Path) -> tuple[str, ...]:
    if not path.is_file() or path.stat().st_size > _MOST_TASKS_BYTES:
        return ()
    try:
        return tuple(older.read_older_tasks(path.parent.parent))
    except UserError:
        return ()


def _tasks(path: Path) -> tuple[str, ...]:
    if not path.is_file() or path.stat().st_size > _MOST_TASKS_BYTES:
        return ()
    import pyarrow.parquet as parquet  # only where a task is named: a tenth of a second

    try:
        if parquet.read_metadata(path).num_rows > _MOST_TASKS_BYTES // 64:
            return ()
        # As a dictionary, in which a long text that repeats stands once.
        table = parquet.read_table(path, read_dictionary=list(_TEXTS)).unify_dictionaries()
        column = table.column(next(name for name in _TEXTS if name in table.column_names)).combine_chunks()
        words, indices = column.dictionary.to_pylist(), column.indices.to_pylist()
        texts = {number: words[i] for number, i in zip(table.column("task_index").to_pylist(), indices, strict=True)}
        return tuple(str(texts[i]) for i in range(len(texts)))
    except Exception:  # noqa: BLE001 - opening the dataset reports a damaged file with its own message
        return ()


def hub_hint(given: str) -> str:
    """What to do about a `data.root` that is no folder but may be meant as a dataset of the Hugging Face Hub; else "".

    A copy that LeRobot or the `hf` command has left on this machine is named.
    """
    if not _HUB_ID.fullmatch(given):
        return ""
    for copy in _hub_copies(given):
        if (copy / "meta" / "info.json").is_file():
            return f"There is a copy of the dataset '{given}' of the Hugging Face Hub on this machine: data.root={copy}"
    return (
        f"If the dataset '{given}' of the Hugging Face Hub is meant, type data.root=hf://{given}. If the folder is to "
        f"hold recordings of the embedded suite, make them: `xp task=collect data.root={given}`."
    )


def _hub_copies(name: str) -> list[Path]:
    """Where LeRobot and huggingface_hub keep what they downloaded, the newest snapshot first."""
    hf = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    lerobot = Path(os.environ.get("HF_LEROBOT_HOME", hf / "lerobot")).expanduser()
    cached = f"datasets--{name.replace('/', '--')}"
    caches = [lerobot / "hub", Path(os.environ.get("HF_HUB_CACHE", hf / "hub")).expanduser()]
    found = [snapshot for cache in caches for snapshot in (cache / cached / "snapshots").glob("*")]
    return [lerobot / name, *sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]
