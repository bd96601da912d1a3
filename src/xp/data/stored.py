"""Where a LeRobotDataset folder keeps each episode: rows, videos, statistics; format v3.0, and v2.1 for reading."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from xp.data.checks import check_mp4
from xp.data.tables import chunk_and_file, open_parquet, read_tasks
from xp.errors import UserError

V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_V21_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_V21_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


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
        return str(json.loads((Path(root) / "meta" / "info.json").read_text(encoding="utf-8"))["codebase_version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def open_stored(root: str | Path) -> Stored:
    """Read where everything lies; no frame and no row is read.

    Raises:
        UserError: a missing or damaged file, or a format other than v3.0 and v2.1.
    """
    root = Path(root).expanduser()
    version = format_of(root)
    if version == "v2.1":
        return _open_v21(root)
    from xp.data.info import dataset_info

    dataset_info(root)  # refuses what is no v3.0 dataset, and says what to do
    return _open_v30(root)


def _open_v30(root: Path) -> Stored:
    info = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
    data_path, video_path = info.get("data_path") or V3_DATA, info.get("video_path") or V3_VIDEO
    keys = [key for key, feature in info["features"].items() if feature.get("dtype") == "video"]
    episodes = []
    for row in _episode_rows(root):
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        episodes.append(
            StoredEpisode(
                number=row["episode_index"],
                start=row["dataset_from_index"],
                length=row["length"],
                tasks=tuple(row.get("tasks") or ()),
                data=root / data_path.format(**place),
                clips={key: _clip_v30(root, video_path, row, key, float(info["fps"])) for key in keys},
                stats=_nested(row),
            )
        )
    _refuse_gaps(root, episodes)
    return Stored(root=root, info=info, tasks=tuple(read_tasks(root)), episodes=tuple(episodes))


def _episode_rows(root: Path) -> list[dict[str, Any]]:
    paths = sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet"), key=chunk_and_file)
    tables = [open_parquet(path).read() for path in paths]
    if not tables:
        raise UserError(f"{root / 'meta' / 'episodes'} holds no parquet file. Copy the dataset's meta/ folder again.")
    table = pa.concat_tables(tables, promote_options="permissive").sort_by("episode_index")
    return table.to_pylist()


def _clip_v30(root: Path, pattern: str, row: Mapping[str, Any], key: str, fps: float) -> Clip:
    name = f"videos/{key}"
    if row.get(f"{name}/from_timestamp") is None:
        raise UserError(f"meta/episodes of {root} does not say where '{key}' is stored. Copy the meta/ folder again.")
    place = {"chunk_index": row[f"{name}/chunk_index"], "file_index": row[f"{name}/file_index"]}
    path = root / pattern.format(video_key=key, **place)
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
    info = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
    size = int(info.get("chunks_size") or 1000)
    data_path, video_path = info.get("data_path") or _V21_DATA, info.get("video_path") or _V21_VIDEO
    keys = [key for key, feature in info["features"].items() if feature.get("dtype") == "video"]
    stats = {line["episode_index"]: line["stats"] for line in _json_lines(root / "meta" / "episodes_stats.jsonl")}
    tasks = {line["task_index"]: line["task"] for line in _json_lines(root / "meta" / "tasks.jsonl")}
    episodes, start = [], 0
    for line in sorted(_json_lines(root / "meta" / "episodes.jsonl"), key=lambda line: line["episode_index"]):
        number, length = int(line["episode_index"]), int(line["length"])
        place = {"episode_chunk": number // size, "episode_index": number}
        clips = {}
        for key in keys:
            path = root / video_path.format(video_key=key, **place)
            check_mp4(path)
            clips[key] = Clip(path=path, start=0.0, end=length / float(info["fps"]))
        episodes.append(
            StoredEpisode(
                number=number,
                start=start,
                length=length,
                tasks=tuple(line.get("tasks") or ()),
                data=root / data_path.format(**place),
                clips=clips,
                stats=stats.get(number, {}),
            )
        )
        start += length
    _refuse_gaps(root, episodes)
    return Stored(root=root, info=info, tasks=tuple(tasks[i] for i in sorted(tasks)), episodes=tuple(episodes))


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); a LeRobotDataset v2.1 has it. Copy the "
            "dataset's meta/ folder again."
        ) from error


def _refuse_gaps(root: Path, episodes: list[StoredEpisode]) -> None:
    numbers = [episode.number for episode in episodes]
    if numbers != list(range(len(numbers))) or not numbers:
        raise UserError(
            f"The episodes listed in {root / 'meta'} are not 0, 1, 2, ... ({len(numbers)} are listed). Copy the "
            "dataset's meta/ folder again."
        )
