"""In which piece of a LeRobotDataset's files the frame of each row is: what a stream asks (`xp.data.frame_source`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from xp.data.cache_store import CacheStore
from xp.data.frame_source import LocatedPiece
from xp.data.lerobot.folder import LeRobotFolder
from xp.data.lerobot.pieces import PICTURES, PicturePiece, VideoPiece
from xp.data.lerobot.video_index import VideoIndex, open_index
from xp.foreign.parquet import open_parquet


@dataclass(frozen=True, eq=False)
class VideoLocator:
    """A `xp.data.frame_source.FrameLocator` of a camera in mp4 files."""

    dataset: LeRobotFolder
    camera: str
    size: tuple[int, int]
    decoder: str
    index: VideoIndex

    def locate(self, rows: np.ndarray, most: int) -> list[LocatedPiece]:
        """Frames of a file, in the order of their times; those that need the same key frame stay together."""
        index, data = self.index, self.dataset
        order = np.lexsort((index.time[rows], index.part[rows]))
        found = []
        for same_file in _split_at_changes(order, index.part[rows[order]]):
            for places in _chunks(same_file, index.start[rows[same_file]], most):
                at = rows[places]
                piece = VideoPiece(
                    path=data.videos[self.camera][int(index.part[at[0]])].path,
                    decoder=self.decoder,
                    stored=data.cameras[self.camera][:2],
                    size=self.size,
                    frames=np.stack([index.time[at], index.number[at], index.start[at]], axis=1),
                    rows=np.stack([data.episode_index[at], data.frame_index[at]], axis=1),
                )
                found.append(LocatedPiece(piece, places))
        return found


@dataclass(frozen=True, eq=False)
class PictureLocator:
    """A `xp.data.frame_source.FrameLocator` of a camera whose pictures are in the data files."""

    dataset: LeRobotFolder
    camera: str
    size: tuple[int, int]

    @cached_property
    def _groups(self) -> tuple[np.ndarray, list[tuple[Path, int, int, int]]]:
        """First row of each row group, and its file, number, first row in the file and first row of the file."""
        firsts, groups, row = list[int](), list[tuple[Path, int, int, int]](), 0
        for path in self.dataset.data_files:
            metadata, start = open_parquet(path, PICTURES).metadata, row
            for group in range(metadata.num_row_groups):
                firsts.append(row)
                groups.append((path, group, row - start, start))
                row += metadata.row_group(group).num_rows
        return np.array(firsts), groups

    def locate(self, rows: np.ndarray, most: int) -> list[LocatedPiece]:
        """Pictures of a row group, which is read as a whole."""
        firsts, groups = self._groups
        group_of = np.searchsorted(firsts, rows, side="right") - 1
        found = []
        for same_group in _split_at_changes(np.arange(len(rows)), group_of):
            path, group, first, start = groups[int(group_of[same_group[0]])]
            for begin in range(0, len(same_group), most):
                places = same_group[begin : begin + most]
                piece = PicturePiece(
                    root=self.dataset.root,
                    path=path,
                    group=group,
                    first=first,
                    rows=rows[places] - start,
                    key=self.dataset.info.streams[self.camera].key,
                    camera=self.camera,
                    stored=self.dataset.cameras[self.camera][:2],
                    size=self.size,
                )
                found.append(LocatedPiece(piece, places))
        return found


def locator(
    dataset: LeRobotFolder,
    camera: str,
    size: tuple[int, int],
    decoder: str,
    store: CacheStore,
    log: Callable[[str], None] | None,
    check: Callable[[], None],
) -> VideoLocator | PictureLocator:
    """Where the frames of a camera are; see `xp.data.frame_source.StreamedDataset`."""
    if not dataset.info.streams[camera].is_video:
        return PictureLocator(dataset, camera, size)
    return VideoLocator(dataset, camera, size, decoder, open_index(dataset, camera, store, log, check))


def _split_at_changes(places: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """`places` in runs of equal `values`."""
    return np.split(places, np.flatnonzero(np.diff(values)) + 1) if len(places) else []


def _chunks(places: np.ndarray, starts: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """`places` in pieces of at most `most`, cut where another key frame begins if the runs allow it."""
    held: list[np.ndarray] = []
    for run in _split_at_changes(places, starts):
        if held and sum(map(len, held)) + len(run) > most:
            yield np.concatenate(held)
            held = []
        for begin in range(0, len(run), most):
            held.append(run[begin : begin + most])
            if len(held[-1]) == most:
                yield held.pop()
    if held:
        yield np.concatenate(held)
