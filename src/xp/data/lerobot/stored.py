"""Where a LeRobotDataset folder keeps each episode: rows, videos, statistics; format v3.0, and v2.1 for reading."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xp.data.lerobot import older
from xp.data.lerobot.checks import check_mp4
from xp.data.lerobot.features import checked_features
from xp.data.lerobot.info import V3_DATA, V3_VIDEO, dataset_info, frame_rate, pattern_of, read_info
from xp.data.lerobot.places import place
from xp.data.lerobot.tables import episode_texts, integers, read_episode_table, read_tasks, seconds
from xp.errors import UserError
from xp.foreign.json_file import Fields


@dataclass(frozen=True, kw_only=True)
class Clip:
    """An episode's part of an mp4 file: from `start` to `end`, seconds in the file."""

    path: Path
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class StoredEpisode:
    """One episode: its texts, the parquet file with its rows, its clips and its own statistics by feature key.

    Its frames are the rows `start` .. `start + length - 1` of the dataset.
    """

    number: int
    start: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    clips: Mapping[str, Clip]
    stats: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A dataset as files. `info` is meta/info.json as it is; `tasks` are the language instructions by task index."""

    root: Path
    info: Mapping[str, Any]
    tasks: tuple[str, ...]
    episodes: tuple[StoredEpisode, ...]

    @property
    def fields(self) -> Fields:
        """`info` for typed access."""
        return Fields(self.info, str(self.root / "meta" / "info.json"))

    @property
    def version(self) -> str:
        """LeRobot's format: "v3.0" or "v2.1"."""
        return str(self.info["codebase_version"])

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.info["fps"])

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Feature keys stored as mp4, whatever the cameras are called."""
        return tuple(key for key, feature in self.info["features"].items() if feature.get("dtype") == "video")

    @property
    def episode_tasks(self) -> tuple[str, ...]:
        """The first text of each episode."""
        return tuple(episode.tasks[0] if episode.tasks else "" for episode in self.episodes)


def format_of(root: str | Path) -> str:
    """The LeRobot format of the folder `root`, such as "v3.0"; "" where it is no dataset (opening it says why)."""
    try:
        return read_info(Path(root).expanduser()).text("codebase_version", "", most=40)
    except UserError:
        return ""


def open_stored(root: str | Path) -> Stored:
    """Read where everything lies; no frame and no row is read.

    Raises:
        UserError: a missing or damaged file, one that is named outside of the folder, or a format other than v3.0 and
            v2.1.
    """
    root = Path(root).expanduser()
    version = format_of(root)
    if version == "v2.0":
        raise UserError(
            f"The dataset {root} has LeRobot format v2.0, without the statistics of each episode, so its episodes "
            "cannot be copied into datasets of their own. Train on its manifests instead (data.split=MANIFEST), or "
            "convert it to v2.1 with LeRobot 0.3 (`convert_dataset_v20_to_v21.py`)."
        )
    if version == "v2.1":
        return _open_v21(root)
    dataset_info(root)  # refuses what is no v3.0 dataset, and says what to do
    return _open_v30(root)


def _open_v30(root: Path) -> Stored:
    info = read_info(root)
    data_path, video_path = pattern_of(info, "data_path", V3_DATA), pattern_of(info, "video_path", V3_VIDEO)
    fps = frame_rate(info)
    episodes = []
    for row in _episode_rows(root, _video_keys(info)):
        inside = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        episodes.append(
            StoredEpisode(
                number=row["episode_index"],
                start=row["dataset_from_index"],
                length=row["length"],
                tasks=row["tasks"],
                data=place(root, data_path, info.place("data_path"), **inside),
                clips={key: _clip_v30(root, video_path, row, key, fps) for key in _video_keys(info)},
                stats=_nested(row),
            )
        )
    return _checked(Stored(root=root, info=info.content, tasks=tuple(read_tasks(root)), episodes=tuple(episodes)))


def _video_keys(info: Fields) -> list[str]:
    return [key for key, feature in checked_features(info).items() if feature.text("dtype") == "video"]


def _episode_rows(root: Path, keys: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of meta/episodes with checked places; the statistics are as they are."""
    table, folder = read_episode_table(root, statistics=True), root / "meta" / "episodes"
    videos = [f"videos/{key}/{name}" for key in keys for name in ("chunk_index", "file_index", "from_timestamp")]
    missing = [name for name in ("dataset_from_index", *videos) if name not in table.column_names]
    if missing:
        raise UserError(f"meta/episodes of {root} has no column '{missing[0]}'. Copy the dataset's meta/ folder again.")
    numbers = ["episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index"]
    columns = {name: integers(table, name, folder).tolist() for name in [*numbers, *videos] if "from_t" not in name}
    columns |= {name: seconds(table, name, folder).tolist() for name in videos if "from_t" in name}
    columns["tasks"] = episode_texts(table, folder)
    stats = {name: table.column(name) for name in table.column_names if name.startswith("stats/")}
    for row in range(len(table)):
        own = {name: column[row].as_py() for name, column in stats.items()}
        yield {**{name: values[row] for name, values in columns.items()}, **own}


def _clip_v30(root: Path, pattern: str, row: Mapping[str, Any], key: str, fps: float) -> Clip:
    name = f"videos/{key}"
    numbers = {"chunk_index": row[f"{name}/chunk_index"], "file_index": row[f"{name}/file_index"]}
    path = place(root, pattern, "meta/info.json's video_path", video_key=key, **numbers)
    check_mp4(path)
    start = float(row[f"{name}/from_timestamp"])
    return Clip(path=path, start=start, end=start + row["length"] / fps)


def _nested(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`stats/<feature>/<name>` columns as {feature: {name: value}}."""
    stats: dict[str, dict[str, Any]] = {}
    for column, value in row.items():
        if column.startswith("stats/") and value is not None:
            feature, _, name = column.removeprefix("stats/").rpartition("/")
            stats.setdefault(feature, {})[name] = value
    return stats


def _open_v21(root: Path) -> Stored:
    info = read_info(root)
    size = info.integer("chunks_size", older.CHUNK, low=1)
    data_path = pattern_of(info, "data_path", older.DATA, older.PLACES)
    video_path = pattern_of(info, "video_path", older.VIDEO, older.PLACES)
    keys, fps = _video_keys(info), frame_rate(info)
    stats = {line.integer("episode_index"): line for line in older.json_lines(root / "meta" / "episodes_stats.jsonl")}
    tasks = {line.integer("task_index"): line.text("task") for line in older.json_lines(root / "meta" / "tasks.jsonl")}
    episodes, start = [], 0
    lines = sorted(older.json_lines(root / "meta" / "episodes.jsonl"), key=lambda line: line.integer("episode_index"))
    for line in lines:
        number, length = line.integer("episode_index", low=0), line.integer("length", low=1)
        inside = {"episode_chunk": number // size, "episode_index": number}
        clips = {}
        for key in keys:
            path = place(root, video_path, info.place("video_path"), video_key=key, **inside)
            check_mp4(path)
            clips[key] = Clip(path=path, start=0.0, end=length / fps)
        own = stats[number].object("stats") if number in stats else None
        episodes.append(
            StoredEpisode(
                number=number,
                start=start,
                length=length,
                tasks=tuple(line.texts("tasks", [])),
                data=place(root, data_path, info.place("data_path"), **inside),
                clips=clips,
                stats={} if own is None else {key: entry.content for key, entry in own.objects()},
            )
        )
        start += length
    texts = tuple(tasks[i] for i in sorted(tasks))
    return _checked(Stored(root=root, info=info.content, tasks=texts, episodes=tuple(episodes)))


def _checked(stored: Stored) -> Stored:
    """Refuse episodes that are not 0, 1, 2, ..., one after the other."""
    numbers = [episode.number for episode in stored.episodes]
    if numbers != list(range(len(numbers))) or not numbers:
        raise UserError(
            f"The episodes listed in {stored.root / 'meta'} are not 0, 1, 2, ... ({len(numbers)} are listed). Copy the "
            "dataset's meta/ folder again."
        )
    for episode in stored.episodes:
        if episode.length < 1 or episode.start < 0:
            raise UserError(
                f"meta/ of {stored.root} gives episode {episode.number} {episode.length} frames from "
                f"{episode.start} on. Copy the dataset's meta/ folder again."
            )
    return stored
