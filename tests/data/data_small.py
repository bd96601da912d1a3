"""Write tiny LeRobotDataset v3.0 folders by hand, for layouts LeRobot's own API does not make."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def write_small(
    root: Path, *, lengths=(3, 4), action=None, state=None, features=None, images=None, task_column="task"
) -> Path:
    """Episodes of `lengths`, action [N, A] and state [N, S] or None, images feature key -> [N, h, w, 3] as PNG."""
    n = sum(lengths)
    action = np.arange(2 * n, dtype=np.float32).reshape(n, 2) if action is None else np.asarray(action, np.float32)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    columns = {
        "action": action[:, 0].tolist() if action.shape[1] == 1 else action.tolist(),
        "episode_index": episode, "frame_index": np.arange(n) - starts[episode], "index": np.arange(n),
        "task_index": np.zeros(n, np.int64),
    }  # fmt: skip
    described = {"action": {"dtype": "float32", "shape": [action.shape[1]], "names": None}}
    if state is not None:
        columns["observation.state"] = np.asarray(state, np.float32).tolist()
        described["observation.state"] = {"dtype": "float32", "shape": [np.shape(state)[1]], "names": None}
    for key, frames in (images or {}).items():
        columns[key] = [{"bytes": png(frame), "path": None} for frame in frames]
        names = ["height", "width", "channel"]
        described[key] = {"dtype": "image", "shape": list(frames.shape[1:]), "names": names}
    described.update(features or {})
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "data" / "chunk-000" / "file-000.parquet")
    zeros = np.zeros(len(lengths), np.int64)
    episodes = {"episode_index": np.arange(len(lengths)), "length": lengths, "data/chunk_index": zeros,
                "data/file_index": zeros, "dataset_from_index": starts}  # fmt: skip
    pq.write_table(pa.table(episodes), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], task_column: ["do it"]}), root / "meta" / "tasks.parquet")
    info = {"codebase_version": "v3.0", "fps": 10, "features": described, "total_episodes": len(lengths),
            "total_frames": n, "total_tasks": 1, "robot_type": None}  # fmt: skip
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root
