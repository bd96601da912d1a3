"""Small LeRobotDataset v3.0 folders in which one thing is odd, written by hand."""

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CAMERA = "observation.images.top"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def picture(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    """An image (array or PIL's) as the bytes of a file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def cells(files: list[bytes]) -> pa.Array:
    """A column of pictures as LeRobot stores it."""
    return pa.array(
        [{"bytes": file, "path": f"frame-{i:06d}.png"} for i, file in enumerate(files)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )


def write_odd(
    root: Path,
    *,
    lengths: tuple[int, ...] = (3, 4),
    fps: float = 10,
    action: Any = None,
    action_feature: dict[str, Any] | None = None,
    columns: dict[str, Any] | None = None,
    features: dict[str, Any] | None = None,
    episodes: dict[str, Any] | None = None,
    tasks: pa.Table | None = None,
    info: dict[str, Any] | None = None,
) -> Path:
    """A dataset of `lengths` episodes with a 3-dim action; every argument replaces or adds what is odd."""
    n = sum(lengths)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    frame = np.arange(n) - starts[episode]
    if action is None:
        action = pa.array(np.arange(3 * n, dtype=np.float32).reshape(n, 3).tolist(), pa.list_(pa.float32()))
    rows: dict[str, Any] = {"action": action, "timestamp": pa.array((frame / fps).astype(np.float32)),
            "frame_index": frame, "episode_index": episode, "index": np.arange(n),
            "task_index": np.zeros(n, np.int64), **(columns or {})}  # fmt: skip
    zeros = np.zeros(len(lengths), np.int64)
    table = {"episode_index": np.arange(len(lengths)), "length": np.asarray(lengths), "data/chunk_index": zeros,
             "data/file_index": zeros, "dataset_from_index": starts, "dataset_to_index": starts + lengths,
             "tasks": [["do it"]] * len(lengths), **(episodes or {})}  # fmt: skip
    described = {"action": action_feature or {"dtype": "float32", "shape": [3], "names": None}, **(features or {})}
    for name in ("index", "episode_index", "frame_index", "task_index", "timestamp"):
        kind = "float32" if name == "timestamp" else "int64"
        described[name] = {"dtype": kind, "shape": [1], "names": None}
    for path, content in ((DATA, rows), (EPISODES, table)):
        (root / path).parent.mkdir(parents=True)
        pq.write_table(pa.table({k: v for k, v in content.items() if v is not None}), root / path)
    tasks = pa.table({"task_index": [0], "task": ["do it"]}) if tasks is None else tasks
    pq.write_table(tasks, root / "meta" / "tasks.parquet")
    about = {"codebase_version": "v3.0", "fps": fps, "features": described, "total_episodes": len(lengths),
             "total_frames": n, "total_tasks": 1, "robot_type": "odd", **(info or {})}  # fmt: skip
    (root / "meta" / "info.json").write_text(json.dumps(about))
    return root


def with_pictures(root: Path, files: list[bytes], shape: tuple[int, ...] = (32, 24, 3), **options: Any) -> Path:
    """A dataset with these picture files in its rows."""
    feature = {"dtype": "image", "shape": list(shape), "names": ["height", "width", "channels"]}
    lengths = options.pop("lengths", (len(files),))
    return write_odd(root, lengths=lengths, columns={CAMERA: cells(files)}, features={CAMERA: feature}, **options)


def with_video(
    root: Path,
    times: list[float],
    *,
    starts: list[float] | None = None,
    size: tuple[int, int] = (32, 32),
    **options: Any,
) -> Path:
    """A dataset with one mp4, whose picture i, shown at times[i] seconds, is grey of value 4i; episodes at `starts`."""
    feature = {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"]}
    lengths, fps = options.get("lengths", (3, 4)), options.get("fps", 10)
    if starts is None:
        starts = [s / fps for s in np.cumsum([0, *lengths[:-1]]).tolist()]
    key, zeros = f"videos/{CAMERA}", np.zeros(len(lengths), np.int64)
    episodes = {f"{key}/chunk_index": zeros, f"{key}/file_index": zeros, f"{key}/from_timestamp": starts,
                f"{key}/to_timestamp": [s + n / fps for s, n in zip(starts, lengths, strict=True)]}  # fmt: skip
    episodes |= options.pop("episodes", {})
    root = write_odd(root, features={CAMERA: feature}, episodes=episodes, **options)
    grey_mp4(root / "videos" / CAMERA / "chunk-000" / "file-000.mp4", times, size)
    return root


def grey_mp4(path: Path, times: list[float], size: tuple[int, int] = (32, 32)) -> None:
    """An mp4 whose picture i is grey of value 4i and is shown at times[i] seconds."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    base = Fraction(1, 90_000)
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=Fraction(30), options={"crf": "4", "g": "2", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 4 * i % 256, np.uint8), "rgb24")
            frame.pts, frame.time_base = round(time / base), base
            box.mux(stream.encode(frame))
        box.mux(stream.encode())


def frames_of(root: Path, log: Any = None) -> np.ndarray:
    """All frames of the camera `top` in row order."""
    from xp.data import open_dataset
    from xp.data.lerobot.frames import iter_frames

    dataset = open_dataset(root)
    out = np.zeros((dataset.num_frames, *dataset.cameras["top"]), np.uint8)
    for rows, frames in iter_frames(dataset, "top", dataset.cameras["top"][:2], "pyav", log):
        out[rows] = frames
    return out
