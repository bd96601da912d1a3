"""The few facts about a dataset folder that checks need before anything heavy is imported."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetFacts:
    """Camera names and task sentences of a LeRobotDataset v3 folder."""

    cameras: tuple[str, ...]
    tasks: tuple[str, ...]


def dataset_facts(root: str | None) -> DatasetFacts | None:
    """Read `meta/` of a dataset; None where it is still to be recorded, or where opening it will say what is wrong."""
    meta = Path(str(root)) / "meta"
    try:
        features = json.loads((meta / "info.json").read_text())["features"]
    except (OSError, ValueError, KeyError):
        return None
    images = [name for name, feature in features.items() if feature.get("dtype") in ("image", "video")]
    cameras = tuple(name.removeprefix("observation.images.").removeprefix("observation.") for name in images)
    return DatasetFacts(cameras=cameras, tasks=_tasks(meta / "tasks.parquet"))


def _tasks(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    import pyarrow.parquet as parquet  # only where a task is named: a tenth of a second

    try:
        rows = parquet.read_table(path).to_pylist()
    except Exception:  # noqa: BLE001 - opening the dataset reports a damaged file with its own message
        return ()
    rows.sort(key=lambda row: row["task_index"])
    return tuple(str(row.get("task", row.get("__index_level_0__"))) for row in rows)
