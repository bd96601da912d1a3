"""LeRobotDataset v3.0 folders with videos of any codec, written without LeRobot."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data_small import write_small


def moving(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """[n, h, w, 3]: a smooth picture that drifts, with a block that jumps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [[np.sin(x / 7 + i / 3 + c) * np.cos(y / 9 - i / 5) for c in range(3)] for i in range(count)]
    frames = np.moveaxis(127 + 100 * np.array(waves), 1, -1)
    for frame in frames:
        top, left = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
        frame[top : top + 8, left : left + 8] = rng.integers(0, 256, 3)
    return frames.astype(np.uint8)


def write_mp4(path: Path, frames: np.ndarray, fps: int, codec: str = "libx264", **options: str) -> None:
    """Encode `frames`; `options` are the encoder's, such as g="12"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode())


def write_videos(
    root: Path,
    *,
    lengths=(7, 9, 6),
    files=((0, 1), (2,)),
    size=(32, 48),
    cameras=("top", "wrist"),
    codec="libx264",
    **options: str,
) -> Path:
    """Episodes of `lengths` at 10 a second; `files` says which episodes share an mp4 file."""
    shape = [*size, 3]
    video = {"dtype": "video", "shape": shape, "names": ["height", "width", "channel"]}
    n = sum(lengths)
    write_small(
        root, lengths=lengths, state=np.arange(n * 2).reshape(n, 2),
        features={f"observation.images.{name}": video for name in cameras},
    )  # fmt: skip
    path = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    for number, camera in enumerate(cameras):
        key = f"observation.images.{camera}"
        file_of, begins = np.zeros(len(lengths), np.int64), np.zeros(len(lengths))
        for file, inside in enumerate(files):
            lens = [lengths[e] for e in inside]
            file_of[list(inside)] = file
            begins[list(inside)] = (np.cumsum(lens) - lens) / 10
            place = root / "videos" / key / "chunk-000" / f"file-{file:03d}.mp4"
            write_mp4(place, moving(sum(lens), size, seed=10 * number + file), 10, codec, **options)
        columns = {"chunk_index": np.zeros(len(lengths), np.int64), "file_index": file_of, "from_timestamp": begins}
        for name, values in columns.items():
            table = table.append_column(f"videos/{key}/{name}", pa.array(values))
    pq.write_table(table, path)
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root
