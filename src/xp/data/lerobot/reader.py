"""Open a LeRobotDataset folder, v2.0 to v3.0: numbers in memory, frames where they are (see `xp.data.cache`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from xp.data.cache_store import CacheStore
from xp.data.column_files import SMALL, Columns, num_bytes
from xp.data.dataset import Episodes, FramePieces
from xp.data.finite import check_finite
from xp.data.lerobot import older
from xp.data.lerobot.checks import check_episodes, check_mp4, check_rows
from xp.data.lerobot.columns import layout, mapped_columns
from xp.data.lerobot.folder import LeftOut, LeRobotFolder, VideoPart
from xp.data.lerobot.info import V3_PLACES, DatasetInfo, dataset_info
from xp.data.lerobot.places import places
from xp.data.lerobot.tables import episode_files, integers, read_episode_table, seconds, vectors
from xp.errors import UserError
from xp.foreign.parquet import open_parquet, read_table
from xp.hub.part import read_left_out

if TYPE_CHECKING:
    from xp.data.frame_source import FrameLocator

Videos = dict[str, tuple[VideoPart, ...]]
"""The mp4 files of each camera."""
DECODERS = ("auto", "torchcodec", "pyav")
_ROWS = "rows of the dataset"
_MEND = (
    "remove those episodes with LeRobot's `lerobot-edit-dataset --operation.type=delete_episodes`, or record them again"
)


@dataclass(frozen=True, eq=False, repr=False)
class LeRobotDataset(LeRobotFolder):
    """A LeRobotDataset folder as a `xp.data.dataset.Dataset`: with the frames of its cameras."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """None: LeRobot's policies read neither reward nor done."""
        return {}

    @property
    def groups(self) -> None:
        """None: every episode has the features of meta/info.json."""
        return

    def frame_decoders(self, camera: str) -> tuple[str, ...]:
        """`png` for pictures; for videos what `decoder` allows: `auto` takes what is there."""
        if not self.info.streams[camera].is_video:
            return ("png",)
        return ("pyav", "torchcodec") if self.decoder == "auto" else (self.decoder,)

    def choose_decoder(self, camera: str, log: Callable[[str], None] | None = None) -> str:
        """The one to decode with here; to try whether torchcodec loads, where it is asked for, takes seconds."""
        from xp.data.lerobot.video import choose_decoder

        del log
        return choose_decoder(self.decoder) if self.info.streams[camera].is_video else "png"

    def episode_column(self, name: str) -> np.ndarray:
        """A column of numbers of meta/episodes (of v2: a field of its lines), by episode: [E] float64; true is 1."""
        from xp.data.lerobot.tables import episode_numbers

        return (older.older_episode_numbers if self.info.is_older else episode_numbers)(self.root, name)

    def read_frames(
        self, camera: str, size: tuple[int, int], decoder: str, log: Callable[[str], None] | None = None
    ) -> FramePieces:
        """The frame of every row once; see `xp.data.lerobot.frames.iter_frames`."""
        from xp.data.lerobot.frames import iter_frames

        return iter_frames(self, camera, size, decoder, log)

    def frame_locator(
        self,
        camera: str,
        size: tuple[int, int],
        decoder: str,
        *,
        cache_dir: Path,
        cache_gb: float,
        log: Callable[[str], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> "FrameLocator":
        """See `xp.data.frame_source.StreamedDataset`."""
        from xp.data.lerobot.locators import locator

        return locator(self, camera, size, decoder, CacheStore(cache_dir, cache_gb, log, check), log, check)


def open_folder(
    root: str | Path, *, decoder: str = "auto", cache_dir: str | Path | None = None, cache_gb: float = 20.0
) -> LeRobotDataset:
    """Open the LeRobotDataset folder `root`, v2.0 to v3.0, checking all of it but the pixels.

    Args:
        root: The folder that holds meta/, data/ and, in video mode, videos/.
        decoder: What decodes videos: `torchcodec`, `pyav`, or `auto` (PyAV).
        cache_dir: Where the numbers of a large dataset are decoded to, once, and mapped from; None: into memory.
        cache_gb: Bound on that folder in gigabytes (10^9 bytes).

    Raises:
        UserError: missing, of another version, truncated, contradictory, or with NaN or infinity in its numbers.
    """
    if decoder not in DECODERS:
        raise UserError(f"data.decoder={decoder} is not known; choose one of {', '.join(DECODERS)}.")
    info = dataset_info(root)
    table = _episode_table(info)
    paths, videos = _data_files(info, table), _videos(info, table)
    left = _left_out(info, videos)
    dims = {"action": info.action_dim, "state": info.state_dim, "environment_state": info.environment_dim}
    timed = any(stream.is_video for stream in info.streams.values())
    expected = layout(info.num_frames, len(table), dims, timed=timed, digests=1 + len(videos))
    here = [path for path in _files(videos) if path not in left.files]

    def opened(columns: Columns, digests: str) -> LeRobotDataset:
        return _dataset(info, decoder, paths, videos, columns, left, digests)

    if cache_dir is None or num_bytes(expected) < SMALL:
        return opened(_checked_columns(info, table, paths, here), "")

    def read() -> tuple[Columns, str]:
        columns = _checked_columns(info, table, paths, here)
        return columns, opened(columns, "").digests

    meta = [info.root / "meta" / "info.json", *_meta_files(info)]
    columns, digests = mapped_columns(
        info.root, [*meta, *paths, *here], expected, read, CacheStore(Path(cache_dir), cache_gb)
    )
    return opened(columns, digests)


def described_videos(root: Path) -> Videos:
    """The mp4 files of each camera as `meta/` names them, whether they are there or not.

    Raises:
        UserError: `meta/` is missing or damaged.
    """
    info = dataset_info(root)
    return _videos(info, _episode_table(info))


def _left_out(info: DatasetInfo, videos: Videos) -> LeftOut:
    """The videos that were not downloaded; one that is there all the same counts as there."""
    origin, names = read_left_out(info.root)
    missing = (path for path in _files(videos) if path.relative_to(info.root).as_posix() in names)
    return LeftOut(origin, frozenset(path for path in missing if not path.exists()))


def _episode_table(info: DatasetInfo) -> pa.Table:
    """Where each episode lies, in their order: the columns of meta/episodes of v3.0."""
    if not info.is_older:
        return read_episode_table(info.root)
    keys = [stream.key for stream in info.streams.values() if stream.is_video]
    return older.read_older_episodes(info.root, keys, info.chunks_size)


def _meta_files(info: DatasetInfo) -> list[Path]:
    if info.is_older:
        return older.meta_files(info.root)
    return [info.root / "meta" / "tasks.parquet", *episode_files(info.root)]


def _files(videos: Videos) -> list[Path]:
    return [part.path for parts in videos.values() for part in parts]


def _checked_columns(info: DatasetInfo, table: pa.Table, paths: list[Path], videos: list[Path]) -> Columns:
    """The numbers of all rows and where episodes begin, each row and each video file checked against what meta/ says.

    Whoever maps them finds the files as they were checked (`mapped_columns`), and need not look into each.
    """
    for path in videos:
        check_mp4(path)
    columns = _read_frames(info, paths)
    episode, frame = columns["episode_index"], columns["frame_index"]
    check_rows(info.root, columns.pop("index"), episode, frame, info.num_frames)
    starts = np.flatnonzero(frame == 0)
    lengths = np.diff(np.append(starts, len(frame)))
    meta = info.root / "meta" / "episodes"
    check_episodes(info.root, lengths, integers(table, "length", meta), integers(table, "episode_index", meta))
    for what, key, names in (
        ("action", "action", info.action_names),
        ("observation.state", "state", info.state_names),
        ("observation.environment_state", "environment_state", info.environment_state_names),
    ):
        check_finite(info.root, what, columns[key], names, episode, frame, _MEND)
    _check_tasks(info, columns["task_index"])
    return {**columns, "starts": starts, "lengths": lengths}


def _dataset(
    info: DatasetInfo,
    decoder: str,
    paths: list[Path],
    videos: Videos,
    columns: Columns,
    left_out: LeftOut,
    known_digests: str,
) -> LeRobotDataset:
    task_index = columns["task_index"][columns["starts"]]
    return LeRobotDataset(
        info=info,
        decoder=decoder,
        episodes=Episodes(columns["starts"], columns["lengths"], task_index, tuple(info.tasks)),
        action=columns["action"],
        state=columns["state"],
        environment_state=columns["environment_state"],
        episode_index=columns["episode_index"],
        frame_index=columns["frame_index"],
        task_index=columns["task_index"],
        data_files=tuple(paths),
        videos=videos,
        timestamps=columns.get("timestamp"),
        left_out=left_out,
        known_digests=known_digests,
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
    what = "meta/info.json's data_path"
    return places(info.root, info.data_path, what, (_numbers(info, *pair) for pair in pairs))


def _numbers(info: DatasetInfo, chunk: int, file: int) -> dict[str, int]:
    """What the patterns of paths are filled in with."""
    names = older.PLACES if info.is_older else V3_PLACES
    return dict(zip(names, (chunk, file), strict=True))


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
    return {name: np.concatenate(parts.pop(name)) for name in list(parts)}  # one column twice in memory, not all


def _check_tasks(info: DatasetInfo, task_index: np.ndarray) -> None:
    wrong = np.flatnonzero((task_index < 0) | (task_index >= len(info.tasks)))
    if len(wrong):
        raise UserError(
            f"The data files of {info.root} use task {task_index[wrong[0]]} in row {wrong[0]}, but meta/ "
            f"lists {len(info.tasks)} tasks, numbered from 0. Copy the dataset's meta/ folder again."
        )


def _videos(info: DatasetInfo, table: pa.Table) -> Videos:
    return {name: _video_parts(info, table, name) for name, stream in info.streams.items() if stream.is_video}


def _video_parts(info: DatasetInfo, table: pa.Table, camera: str) -> tuple[VideoPart, ...]:
    """The mp4 files of a camera with their episodes."""
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
    inside = np.split(order, new_file)
    numbers = (_numbers(info, int(chunk[each[0]]), int(file[each[0]])) for each in inside)
    named = ({"video_key": key, **each} for each in numbers)
    paths = places(info.root, info.video_path, "meta/info.json's video_path", named)
    return tuple(VideoPart(path, each, times[each]) for path, each in zip(paths, inside, strict=True))
