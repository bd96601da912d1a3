"""Open a LeRobotDataset v3.0 folder: numbers in memory, frames where they are (see `xp.data.cache`)."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from xp.data.checks import check_episodes, check_finite, check_mp4, check_rows
from xp.data.lerobot.info import DatasetInfo, dataset_info
from xp.data.lerobot.places import place
from xp.data.lerobot.tables import integers, read_episode_table, seconds, vectors
from xp.errors import UserError
from xp.foreign.parquet import open_parquet, read_table
from xp.foreign.text import printable

DECODERS = ("auto", "torchcodec", "pyav")
_ROWS = "rows of the dataset"
_BLOCK = 1 << 16
_BLOCKS = 16


@dataclass(frozen=True)
class Episodes:
    """The episodes of a dataset: rows `starts[e] .. starts[e] + lengths[e] - 1` belong to episode e."""

    starts: np.ndarray
    lengths: np.ndarray
    task_index: np.ndarray
    tasks: tuple[str, ...]
    """The language instruction of each episode (of its first frame)."""

    @property
    def num(self) -> int:
        """E, how many episodes there are."""
        return len(self.starts)

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True)
class VideoPart:
    """One mp4 file: the episodes in it and, for each, the time in seconds at which it starts in the file."""

    path: Path
    episodes: np.ndarray
    from_timestamps: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset opened for training: N frames, A action, S state and E environment state dimensions, in its units."""

    info: DatasetInfo
    decoder: str
    episodes: Episodes
    action: np.ndarray
    state: np.ndarray
    environment_state: np.ndarray
    """[N, E]: what the robot does not sense itself, such as where objects are; E = 0 in most datasets."""
    episode_index: np.ndarray
    frame_index: np.ndarray
    task_index: np.ndarray
    data_files: tuple[Path, ...]
    videos: dict[str, tuple[VideoPart, ...]]
    timestamps: np.ndarray | None = None
    """[N] seconds from the start of its episode at which each row was recorded; None for frame_index / fps."""

    def __repr__(self) -> str:
        """A line for each thing there is to know, as notebooks show it."""
        kind = "video" if self.videos else "pictures"
        lines = {
            "root": str(self.root),
            "episodes": f"{self.episodes.num} of {self.num_frames:,} frames at {self.fps:g} per second",
            "cameras": _line(f"{name} {h}x{w}" for name, (h, w, _) in self.cameras.items()) + f" ({kind})"
            if self.cameras
            else "none",
            "action": f"{self.action.shape} {self.action.dtype}: {_line(self.action_names)}",
            "state": f"{self.state.shape} {self.state.dtype}: {_line(self.state_names)}" if self.state_dim else "none",
            "tasks": f"{len(self.tasks)}: {_line(map(repr, self.tasks))}",
            "robot": self.info.robot_type or "not named",
        }
        if self.environment_dim:
            around = self.environment_state
            names = _line(self.info.environment_state_names)
            lines["environment_state"] = f"{around.shape} {around.dtype}: {names}"
        width = max(map(len, lines)) + 2
        return "\n".join(["Dataset", *(f"  {name:<{width}}{printable(text, 400)}" for name, text in lines.items())])

    @property
    def root(self) -> Path:
        """The dataset folder."""
        return self.info.root

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Camera name to (height, width, 3) in pixels as stored."""
        return self.info.cameras

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.info.fps

    @property
    def tasks(self) -> list[str]:
        """Language instructions by task index."""
        return self.info.tasks

    @property
    def action_dim(self) -> int:
        """A."""
        return self.info.action_dim

    @property
    def state_dim(self) -> int:
        """S; 0 without a state."""
        return self.info.state_dim

    @property
    def environment_dim(self) -> int:
        """E; 0 without an environment state."""
        return self.info.environment_dim

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A action dimensions."""
        return self.info.action_names

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions."""
        return self.info.state_names

    @property
    def times(self) -> np.ndarray:
        """[N] float64: seconds of each row since its episode began."""
        return self.frame_index / self.fps if self.timestamps is None else self.timestamps

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.action)

    def rows(self, episodes: "np.ndarray | tuple[int, ...] | list[int]") -> np.ndarray:
        """All row numbers [n] int64 of the given episodes, in their order."""
        chosen = np.asarray(episodes, dtype=np.int64).reshape(-1)
        lengths = self.episodes.lengths[chosen]
        before = np.cumsum(lengths) - lengths
        return np.arange(int(lengths.sum())) + np.repeat(self.episodes.starts[chosen] - before, lengths)

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits that name the content, wherever the folder lies.

        sha256 over all actions, states, environment states, episode and task indices, over `features` of info.json,
        over sizes and 16 evenly spread 64 KiB blocks of every data and video file (small files are hashed whole), and
        over the times of rows and where episodes lie in their videos, unless these are the plain ones: a row every
        1 / fps seconds, episodes one after the other from the start of each file.
        Folder names and file times do not count, so a copy has the same fingerprint; nor do the footers of parquet
        files, where the `datasets` library leaves a random number.
        """
        digest = hashlib.sha256(b"xp.data 2")
        features = json.loads((self.root / "meta" / "info.json").read_text(encoding="utf-8"))["features"]
        digest.update(json.dumps([features, self.fps, self.tasks], sort_keys=True).encode())
        for array in (self.action, self.state, self.environment_state, self.episode_index, self.task_index):
            digest.update(np.ascontiguousarray(array).data)
        for array in self._unusual_times():
            digest.update(np.ascontiguousarray(array).data)
        for path in self.files:
            digest.update(str(path.relative_to(self.root)).encode())
            _hash_file(digest, path)
        return digest.hexdigest()

    def _unusual_times(self) -> list[np.ndarray]:
        """Times that decide which frame is whose, where they are not the plain ones (to a tenth of a frame)."""
        tolerance, found = 0.1 / self.fps, []
        if self.videos and np.abs(self.times - self.frame_index / self.fps).max() > tolerance:
            found.append(self.times)
        for part in (part for parts in self.videos.values() for part in parts):
            lengths = self.episodes.lengths[part.episodes]
            plain = (np.cumsum(lengths) - lengths) / self.fps
            if (np.diff(part.episodes) < 0).any() or np.abs(part.from_timestamps - plain).max() > tolerance:
                found += [part.episodes, part.from_timestamps]
        return found

    @property
    def files(self) -> list[Path]:
        """Every data and video file."""
        return sorted([*self.data_files, *(part.path for parts in self.videos.values() for part in parts)])


def _line(words: Iterable[str], most: int = 12) -> str:
    """The first words and how many there are in all."""
    words = list(words)
    return ", ".join(words[:most]) + (f", ... ({len(words)} in all)" if len(words) > most else "")


def _hash_file(digest: "hashlib._Hash", path: Path) -> None:
    with path.open("rb") as file:
        size = _content_size(path, file)
        digest.update(str(size).encode())
        if size <= _BLOCK * _BLOCKS:
            digest.update(file.read(size))
            return
        for i in range(_BLOCKS):
            file.seek((size - _BLOCK) * i // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))


def _content_size(path: Path, file: BinaryIO) -> int:
    """Bytes of a file before its parquet footer, whose length stands in front of the closing magic number."""
    size = path.stat().st_size
    if path.suffix != ".parquet":
        return size
    file.seek(size - 8)
    footer = int.from_bytes(file.read(4), "little") + 8
    file.seek(0)
    return max(0, size - footer)


def open_dataset(root: str | Path, *, decoder: str = "auto") -> Dataset:
    """Open the LeRobotDataset v3.0 folder `root`, checking all of it but the pixels.

    Args:
        root: The folder that holds meta/, data/ and, in video mode, videos/.
        decoder: What decodes videos: `torchcodec`, `pyav`, or `auto` (torchcodec where it loads).

    Raises:
        UserError: missing, of another version, truncated, contradictory, or with NaN or infinity in its numbers.
    """
    if decoder not in DECODERS:
        raise UserError(f"data.decoder={decoder} is not known; choose one of {', '.join(DECODERS)}.")
    info = dataset_info(root)
    table = read_episode_table(info.root)
    paths = _data_files(info, table)
    columns = _read_frames(info, paths)
    episode, frame = columns["episode_index"], columns["frame_index"]
    check_rows(info.root, columns["index"], episode, frame, info.num_frames)
    starts = np.flatnonzero(frame == 0)
    lengths = np.diff(np.append(starts, len(frame)))
    meta = info.root / "meta" / "episodes"
    check_episodes(info.root, lengths, integers(table, "length", meta), integers(table, "episode_index", meta))
    check_finite(info.root, "action", columns["action"], info.action_names, episode, frame)
    check_finite(info.root, "observation.state", columns["state"], info.state_names, episode, frame)
    around, names = columns["environment_state"], info.environment_state_names
    check_finite(info.root, "observation.environment_state", around, names, episode, frame)
    _check_tasks(info, columns["task_index"])
    task_index = columns["task_index"][starts]
    return Dataset(
        info=info,
        decoder=decoder,
        episodes=Episodes(starts, lengths, task_index, tuple(info.tasks[i] for i in task_index)),
        action=columns["action"],
        state=columns["state"],
        environment_state=around,
        episode_index=episode,
        frame_index=frame,
        task_index=columns["task_index"],
        data_files=tuple(paths),
        videos={name: _video_parts(info, table, name) for name, s in info.streams.items() if s.is_video},
        timestamps=columns.get("timestamp"),
    )


def _data_files(info: DatasetInfo, table: pa.Table) -> list[Path]:
    """The data files the episodes point to, in order."""
    if len(table) == 0:
        raise UserError(
            f"The dataset {info.root} has no episodes. Record some, or `xp task=collect` into a new folder."
        )
    meta = info.root / "meta" / "episodes"
    chunk, file = integers(table, "data/chunk_index", meta), integers(table, "data/file_index", meta)
    pairs = sorted(set(zip(chunk.tolist(), file.tolist(), strict=True)))
    return [
        place(info.root, info.data_path, "meta/info.json's data_path", chunk_index=c, file_index=f) for c, f in pairs
    ]


def _read_frames(info: DatasetInfo, paths: list[Path]) -> dict[str, np.ndarray]:
    """The numeric columns of all data files, concatenated; images are not read."""
    vector_dims = {
        "action": info.action_dim,
        "observation.state": info.state_dim,
        "observation.environment_state": info.environment_dim,
    }
    numbers = ["episode_index", "frame_index", "index", "task_index"]
    videos = any(stream.is_video for stream in info.streams.values())
    parts: dict[str, list[np.ndarray]] = {}
    for path in paths:
        timed = videos and "timestamp" in open_parquet(path, _ROWS).schema_arrow.names
        wanted = [*numbers, *(["timestamp"] * timed), *(name for name, dim in vector_dims.items() if dim)]
        table = read_table(path, _ROWS, wanted, most_rows=info.num_frames)
        for name, dim in vector_dims.items():
            values = vectors(table, name, dim, path) if dim else np.zeros((len(table), 0), np.float32)
            parts.setdefault(name.removeprefix("observation."), []).append(values)
        for name in numbers:
            parts.setdefault(name, []).append(integers(table, name, path))
        if timed:
            parts.setdefault("timestamp", []).append(seconds(table, "timestamp", path))
    if len(parts.get("timestamp", ())) not in (0, len(paths)):
        raise UserError(
            f"Some data files of {info.root} have a column 'timestamp' and some have none. Copy the dataset again."
        )
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _check_tasks(info: DatasetInfo, task_index: np.ndarray) -> None:
    wrong = np.flatnonzero((task_index < 0) | (task_index >= len(info.tasks)))
    if len(wrong):
        raise UserError(
            f"The data files of {info.root} use task {task_index[wrong[0]]} in row {wrong[0]}, but meta/tasks.parquet "
            f"lists {len(info.tasks)} tasks, numbered from 0. Copy the dataset's meta/ folder again."
        )


def _video_parts(info: DatasetInfo, table: pa.Table, camera: str) -> tuple[VideoPart, ...]:
    """The mp4 files of a camera with their episodes, each file checked to be whole."""
    key = info.streams[camera].key
    missing = [
        n for n in ("chunk_index", "file_index", "from_timestamp") if f"videos/{key}/{n}" not in table.column_names
    ]
    if missing:
        raise UserError(
            f"meta/episodes of {info.root} has no column 'videos/{key}/{missing[0]}', so the frames of camera "
            f"'{camera}' cannot be found. Copy the dataset's meta/ folder again."
        )
    meta = info.root / "meta" / "episodes"
    chunk = integers(table, f"videos/{key}/chunk_index", meta)
    file = integers(table, f"videos/{key}/file_index", meta)
    times = seconds(table, f"videos/{key}/from_timestamp", meta)
    order = np.lexsort((times, file, chunk))
    new_file = np.flatnonzero(np.diff(chunk[order]) | np.diff(file[order])) + 1
    parts = []
    for inside in np.split(order, new_file):
        numbers = {"chunk_index": int(chunk[inside[0]]), "file_index": int(file[inside[0]])}
        path = place(info.root, info.video_path, "meta/info.json's video_path", video_key=key, **numbers)
        check_mp4(path)
        parts.append(VideoPart(path, inside, times[inside]))
    return tuple(parts)
