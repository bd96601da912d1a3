"""Chosen episodes of a dataset as a LeRobotDataset v3.0 of their own, without decoding or encoding a frame.

Rows are copied with new numbers. An mp4 file whose episodes all go to the new dataset is hard-linked; of another one
the packets are copied from key frame to key frame; where the container does not allow that, the whole file is
hard-linked and the episodes keep their times in it, so it also holds frames that belong to nobody. Every way gives the
same pixels.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xp import atomic
from xp.data.exporting import Exported
from xp.data.lerobot.episode_stats import describe, pooled, shifted
from xp.data.lerobot.remux import cut, link
from xp.data.lerobot.stored import V3_DATA, V3_VIDEO, Clip, Stored, StoredEpisode
from xp.data.lerobot.tables import integers
from xp.errors import UserError
from xp.foreign.parquet import read_table
from xp.foreign.statistics import checked_statistics
from xp.foreign.text import printable

_MEGABYTE = 1 << 20
_NUMERIC = re.compile(r"bool|u?int\d+|float\d+")
_OLDER = ("total_chunks", "total_videos")
"""Keys of meta/info.json that format v3.0 does not have."""


@dataclass(frozen=True)
class LeRobotFiles:
    """A LeRobotDataset folder as an `xp.data.exporting.ExportableDataset`."""

    stored: Stored

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.stored.root

    @property
    def episode_tasks(self) -> tuple[str, ...]:
        """The first text of each episode."""
        return self.stored.episode_tasks

    def export(self, episodes: Sequence[int], target: Path) -> Exported:
        """Write the chosen episodes as the folder `target`; see `export_episodes`."""
        return export_episodes(self.stored, episodes, target)


def export_episodes(stored: Stored, episodes: Sequence[int], target: Path) -> Exported:
    """Write the chosen episodes (ascending numbers) as the dataset folder `target`, whole or not at all.

    The tasks keep their numbers, so subsets of one dataset fit each other; episodes and rows are counted anew.

    Raises:
        UserError: `target` exists, or a file of the source is damaged.
    """
    if target.exists():
        raise UserError(
            f"{target} exists already and is left as it is. Give another folder: split.export=<folder>, or remove it."
        )
    chosen = [stored.episodes[number] for number in episodes]
    done = Exported()
    with atomic.folder(target) as folder:
        rows, columns = _write_rows(stored, chosen, folder)
        for key in stored.video_keys:
            _add(rows, key, _write_videos(stored, chosen, key, folder, done))
        _write_meta(stored, chosen, folder, rows, columns)
    return done


def _add(rows: list[dict[str, Any]], key: str, places: list[dict[str, Any]]) -> None:
    for row, place in zip(rows, places, strict=True):
        row.update({f"videos/{key}/{name}": value for name, value in place.items()})


def _place(stored: Stored, number: int) -> dict[str, int]:
    """Chunk and file number of the file that is written as number `number`."""
    chunks = stored.fields.integer("chunks_size", 1000, low=1)
    return {"chunk_index": number // chunks, "file_index": number % chunks}


def _write_rows(
    stored: Stored, chosen: Sequence[StoredEpisode], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Write the data files; one row of meta/episodes per episode, and the numeric columns of all rows together."""
    limit = round(stored.fields.number("data_files_size_in_mb", 100, low=0) * _MEGABYTE)
    numeric = [k for k, f in stored.info["features"].items() if _NUMERIC.fullmatch(f["dtype"])]
    kept: dict[str, list[np.ndarray]] = {name: [] for name in numeric}
    rows: list[dict[str, Any]] = []
    start = 0
    with _DataFiles(stored, folder, limit) as files:
        for number, (episode, table) in enumerate(_tables(chosen)):
            table = _renumbered(table, number, start)
            file = files.write(table)
            for name in numeric:
                if name in table.column_names:
                    kept[name].append(_numbers(table, name, episode.data))
            rows.append(_row(stored, episode, number, start, file))
            start += episode.length
    return rows, {name: np.concatenate(parts) for name, parts in kept.items() if parts}


class _DataFiles:
    """Parquet files one after the other, a row group an episode; a new one where the last exceeds `limit` bytes."""

    def __init__(self, stored: Stored, folder: Path, limit: int):
        self._stored, self._folder, self._limit = stored, folder, limit
        self._number, self._path = -1, folder
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> int:
        """Append one episode; returns the number of the file it went to."""
        if self._writer is None or self._path.stat().st_size > self._limit:
            self.__exit__()
            self._number += 1
            self._path = self._folder / V3_DATA.format(**_place(self._stored, self._number))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="snappy")
        try:
            self._writer.write_table(table.cast(self._writer.schema))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise UserError(
                f"The data files of {self._stored.root} have columns of different kinds ({printable(error)}), so their "
                "rows do not fit into one dataset. Copy the dataset again."
            ) from error
        return self._number

    def __enter__(self) -> "_DataFiles":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def _tables(chosen: Sequence[StoredEpisode]) -> Iterator[tuple[StoredEpisode, pa.Table]]:
    """Each episode with its rows; a data file is read once for the episodes that stand in it one after another."""
    path, table = None, None
    for episode in chosen:
        if episode.data != path:
            path, table = episode.data, read_table(episode.data, "rows of the dataset")
            if "index" not in table.column_names or "episode_index" not in table.column_names:
                raise UserError(f"{path} has no columns 'index' and 'episode_index'. Copy the dataset again.")
        assert path is not None and table is not None
        numbers = integers(table, "episode_index", path)
        mine = np.flatnonzero(numbers == episode.number)
        if len(mine) != episode.length:
            raise UserError(
                f"{episode.data} holds {len(mine)} rows of episode {episode.number}; meta/ announces {episode.length}. "
                "The copy is incomplete: copy the dataset again."
            )
        if int(mine[-1] - mine[0]) != len(mine) - 1:
            raise UserError(f"{path}: the rows of episode {episode.number} do not stand together. Copy it again.")
        yield episode, table.slice(int(mine[0]), len(mine))


def _renumbered(table: pa.Table, number: int, start: int) -> pa.Table:
    for name, values in (
        ("episode_index", np.full(len(table), number)),
        ("index", np.arange(start, start + len(table))),
    ):
        place = table.schema.get_field_index(name)
        column = table.schema.field(place)
        table = table.set_column(place, column, pa.array(values, type=column.type))
    return table


def _numbers(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """A numeric column as [n, D]; features of several axes are flattened."""
    column = table.column(name).combine_chunks()
    nulls = column.null_count
    while pa.types.is_nested(column.type) and not pa.types.is_struct(column.type):
        column = column.flatten()
        nulls += column.null_count
    kind = column.type
    numbers = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if nulls or not numbers or len(column) % len(table):
        raise UserError(
            f"Column '{name}' of {path} is no table of numbers: it has nulls, rows of other widths or values of type "
            f"{printable(kind, 60)}. Copy the dataset again, or remove the feature with LeRobot's "
            "`lerobot-edit-dataset --operation.type=remove_feature`."
        )
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64).reshape(len(table), -1)


def _row(stored: Stored, episode: StoredEpisode, number: int, start: int, file: int) -> dict[str, Any]:
    _check_stats(stored, episode)
    moved = shifted(episode.stats, {"episode_index": number - episode.number, "index": start - episode.start})
    return {
        "episode_index": number,
        "tasks": list(episode.tasks),
        "length": episode.length,
        **{f"data/{name}": value for name, value in _place(stored, file).items()},
        "dataset_from_index": start,
        "dataset_to_index": start + episode.length,
        **{f"stats/{feature}/{name}": value for feature, entry in moved.items() for name, value in entry.items()},
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _check_stats(stored: Stored, episode: StoredEpisode) -> None:
    """Refuse statistics of an episode that cannot be right: they are pooled into those of the new dataset."""
    for feature, entry in episode.stats.items():
        where = f"of '{printable(feature)}' in episode {episode.number} of {stored.root}"
        checked_statistics(entry, where)
        missing = [name for name in ("min", "max", "count") if entry.get(name) is None]
        if missing:
            raise UserError(
                f"The statistics {where} have no '{missing[0]}'. Compute them again with LeRobot's "
                "`lerobot-edit-dataset --operation.type=recompute_stats`."
            )


def _write_videos(
    stored: Stored, chosen: Sequence[StoredEpisode], key: str, folder: Path, done: Exported
) -> list[dict[str, Any]]:
    """Give every chosen episode its part of a video file of camera `key`; returns the places in meta/episodes."""
    inside: dict[Path, list[int]] = {}
    for episode in stored.episodes:
        inside.setdefault(episode.clips[key].path, []).append(episode.number)
    mine: dict[Path, list[StoredEpisode]] = {}
    for episode in chosen:
        mine.setdefault(episode.clips[key].path, []).append(episode)
    places: dict[int, dict[str, Any]] = {}
    for file, (source, members) in enumerate(mine.items()):
        place = _place(stored, file)
        target = folder / V3_VIDEO.format(video_key=key, **place)
        members = sorted(members, key=lambda episode: episode.clips[key].start)
        clips = [episode.clips[key] for episode in members]
        starts = _place_video(source, clips, target, stored.fps, whole=len(members) == len(inside[source]), done=done)
        for episode, start in zip(members, starts, strict=True):
            end = start + episode.length / stored.fps
            places[episode.number] = {**place, "from_timestamp": start, "to_timestamp": end}
    return [places[episode.number] for episode in chosen]


def _place_video(
    source: Path, clips: Sequence[Clip], target: Path, fps: float, *, whole: bool, done: Exported
) -> list[float]:
    """Put what the clips need of a file at `target`; returns where each clip starts there."""
    if not whole:
        starts = cut(source, [(clip.start, clip.end) for clip in clips], target, fps)
        if starts is not None:
            done.cut += 1
            return starts
        done.kept_whole.append(str(source))
    else:
        done.linked += 1
    link(source, target)
    return [clip.start for clip in clips]


def _write_meta(
    stored: Stored,
    chosen: Sequence[StoredEpisode],
    folder: Path,
    rows: list[dict[str, Any]],
    columns: dict[str, np.ndarray],
) -> None:
    meta = folder / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), meta / "episodes" / "chunk-000" / "file-000.parquet")
    _write_tasks(stored, meta / "tasks.parquet")
    total = {"total_episodes": len(chosen), "total_frames": sum(episode.length for episode in chosen)}
    info = {key: value for key, value in stored.info.items() if key not in _OLDER}
    info |= {"codebase_version": "v3.0", **total, "total_tasks": len(stored.tasks)}
    info |= {"splits": {"train": f"0:{len(chosen)}"}, "data_path": V3_DATA, "fps": stored.info["fps"]}
    info["video_path"] = V3_VIDEO if stored.video_keys else None
    info = {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200, **info}
    (meta / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
    stats = {**_pooled(chosen), **{name: describe(values) for name, values in columns.items()}}
    (meta / "stats.json").write_text(json.dumps(atomic.plain(stats), indent=4), encoding="utf-8")


def _pooled(chosen: Sequence[StoredEpisode]) -> dict[str, Any]:
    """Statistics of every feature that each episode has statistics of."""
    shared = set.intersection(*(set(episode.stats) for episode in chosen))
    for name in shared:
        if len({np.shape(episode.stats[name]["mean"]) for episode in chosen}) > 1:
            raise UserError(
                f"The statistics of '{printable(name)}' have other shapes in some episodes than in others. Compute "
                "them again with LeRobot's `lerobot-edit-dataset --operation.type=recompute_stats`."
            )
    return {name: pooled([episode.stats[name] for episode in chosen]) for name in sorted(shared)}


def _write_tasks(stored: Stored, path: Path) -> None:
    """`tasks.parquet` as LeRobot writes it: the text is the index of a pandas table."""
    import pandas

    table = pandas.DataFrame({"task_index": range(len(stored.tasks))}, index=pandas.Index(stored.tasks, name="task"))
    table.to_parquet(path)
