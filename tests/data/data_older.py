"""LeRobotDataset folders v2.0 and v2.1, made of today's."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xp.data.lerobot import older

OF_EVERY_DATASET = {
    "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"
}  # fmt: skip
"""Features that LeRobot adds to every dataset, with their types."""


def as_older(source: Path, root: Path, version: str) -> Path:
    """The dataset `source` (one data file, one mp4 per episode and camera) as LeRobot 0.1 to 0.3 wrote it."""
    info = json.loads((source / "meta" / "info.json").read_text())
    info |= {"codebase_version": version, "chunks_size": 2, "data_path": older.DATA, "video_path": older.VIDEO}
    videos = sum(feature["dtype"] == "video" for feature in info["features"].values())
    info |= {"total_chunks": -(-info["total_episodes"] // 2), "total_videos": info["total_episodes"] * videos}
    info["features"] |= {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in OF_EVERY_DATASET.items()}
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    table = _as_lerobot_writes(pq.read_table(source / "data" / "chunk-000" / "file-000.parquet"), info["fps"])
    episodes = pq.read_table(source / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    lines = {"tasks": [{"task_index": 0, "task": "do it"}], "episodes": []}
    for episode in episodes:
        number, length = episode["episode_index"], episode["length"]
        place = {"episode_chunk": number // 2, "episode_index": number}
        path = root / older.DATA.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(episode["dataset_from_index"], length), path)
        lines["episodes"].append({"episode_index": number, "tasks": ["do it"], "length": length})
        for key in (key for key, feature in info["features"].items() if feature["dtype"] == "video"):
            target = root / older.VIDEO.format(video_key=key, **place)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source / "videos" / key / "chunk-000" / f"file-{number:03d}.mp4", target)
    for name, objects in lines.items():
        (root / "meta" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in objects))
    return root


def _as_lerobot_writes(table: pa.Table, fps: float) -> pa.Table:
    """With the times of frames, and numbers in single precision."""
    if "timestamp" not in table.column_names:
        times = pc.divide(table["frame_index"].cast(pa.float64()), float(fps))
        table = table.append_column("timestamp", times.cast(pa.float32()))
    for place, name in enumerate(table.column_names):
        if pa.types.is_list(table[name].type):
            table = table.set_column(place, name, table[name].cast(pa.list_(pa.float32())))
    return table
