"""Single frames of a LeRobotDataset, in pieces that any process can read: the pixels of `frames.iter_frames`.

Processes import this to read a piece, so it imports little.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from xp.data.frame_source import OpenFiles
from xp.data.lerobot.checks import broken_frame
from xp.data.lerobot.frame_reader import open_reader
from xp.data.lerobot.video import UndecodableError
from xp.foreign.parquet import read_row_group
from xp.pictures import resize

PICTURES = "pictures of the dataset"


@dataclass(frozen=True, eq=False, repr=False)
class VideoPiece:
    """Frames of an mp4 file in the order of their times, resized to `size`; columns as in `VideoIndex`."""

    path: Path
    decoder: str
    stored: tuple[int, int]
    size: tuple[int, int]
    frames: np.ndarray
    """[n, 3] int64: time, number, start."""
    rows: np.ndarray
    """[n, 2] int64: episode and place in it, for messages."""

    def __repr__(self) -> str:
        """The file."""
        return str(self.path)

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, files: OpenFiles) -> Iterator[np.ndarray]:
        """See `xp.data.frame_source.FramePiece`."""
        key = (self.path, self.decoder)
        done = 0
        try:
            reader = files.get(key, lambda: open_reader(self.path, self.decoder, self.stored))
            for frame in reader.read(self.frames):
                yield resize(frame, *self.size)
                done += 1
        except UndecodableError as error:
            files.forget(key)
            raise broken_frame(self.path, str(error), *self.rows[done].tolist()) from error


@dataclass(frozen=True, eq=False, repr=False)
class PicturePiece:
    """Pictures of a row group of a parquet file, resized to `size`."""

    root: Path
    path: Path
    group: int
    first: int
    """Row of the file with which the group begins."""
    rows: np.ndarray
    """[n] int64, rows of the file."""
    key: str
    camera: str
    stored: tuple[int, int]
    size: tuple[int, int]

    def __repr__(self) -> str:
        """The file."""
        return str(self.path)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, files: OpenFiles) -> Iterator[np.ndarray]:
        """See `xp.data.frame_source.FramePiece`."""
        from xp.data.lerobot.pictures import picture_reader

        key = (self.path, self.group, self.key)
        cells = files.get(key, lambda: read_row_group(self.path, PICTURES, self.group, self.key))
        resized = partial(resize, height=self.size[0], width=self.size[1])
        read = picture_reader(self.root, self.path, self.camera, self.stored, resized)
        for row in self.rows.tolist():
            yield read((row, cells[row - self.first].as_py()))
