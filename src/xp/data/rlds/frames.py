"""Pictures of a dataset in RLDS: read from where they are in the files, decoded, and in pieces for a stream."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from xp.data.frame_source import LocatedPiece, OpenFiles
from xp.data.rlds.content import Content
from xp.foreign.paths import RefusedError, opened
from xp.foreign.picture import decode
from xp.foreign.text import printable
from xp.pictures import resize

WHAT = "pictures of the dataset"
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
"""Kinds of 8-bit pictures, which TFDS turns into three colours too."""
_PIECE = 8_000_000
"""Bytes of decoded frames that are read together."""


@dataclass(frozen=True, eq=False, repr=False)
class PicturePiece:
    """Pictures of one file, resized to `size`; a `xp.data.frame_source.FramePiece`."""

    path: Path
    camera: str
    stored: tuple[int, int]
    size: tuple[int, int]
    spans: np.ndarray
    """[n, 2] int64: where each begins, and its bytes."""
    rows: np.ndarray
    """[n, 2] int64: episode and step, for messages."""

    def __repr__(self) -> str:
        """The file."""
        return str(self.path)

    def __len__(self) -> int:
        return len(self.spans)

    def read(self, files: OpenFiles) -> Iterator[np.ndarray]:
        """See `xp.data.frame_source.FramePiece`."""
        file: BinaryIO = files.get(self.path, lambda: opened(self.path, WHAT))
        for (begin, size), (episode, step) in zip(self.spans.tolist(), self.rows.tolist(), strict=True):
            where = f"{printable(self.path)}: the picture of camera '{self.camera}' in episode {episode}, step {step},"
            data = os.pread(file.fileno(), size, begin)
            yield resize(_colours(data, where, self.stored), *self.size)


def _colours(data: bytes, where: str, stored: tuple[int, int]) -> np.ndarray:
    image = decode(data, where, stored)
    if image.mode not in _MODES:
        raise RefusedError(
            f"{where} is no 8-bit picture (Pillow's mode {image.mode}). Leave the camera out of model.cameras, or "
            "build the dataset again."
        )
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


@dataclass(frozen=True, eq=False)
class PictureLocator:
    """A `xp.data.frame_source.FrameLocator` of a camera."""

    content: Content
    paths: tuple[Path, ...]
    """The files, by `Content.file`."""
    camera: str
    number: int
    """Its place in `Content.spans`."""
    stored: tuple[int, int]
    size: tuple[int, int]

    @cached_property
    def _ends(self) -> np.ndarray:
        """[E] int64: the row after the last one of each episode."""
        return np.cumsum(self.content.lengths)

    def locate(self, rows: np.ndarray, most: int) -> list[LocatedPiece]:
        """Frames of a file together; rows ascend, and with them the files."""
        return [LocatedPiece(piece, places) for places, piece in self._pieces(rows, most)]

    def all_pieces(self) -> Iterator[tuple[np.ndarray, PicturePiece]]:
        """All rows, each with the others of a piece of about 8 MB, in order."""
        rows = np.arange(len(self.content.spans))
        yield from self._pieces(rows, max(1, _PIECE // (3 * self.stored[0] * self.stored[1])))

    def _pieces(self, rows: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, PicturePiece]]:
        """Pieces, each with the places in `rows` that its frames have."""
        episodes = np.searchsorted(self._ends, rows, "right")
        steps = rows - (self._ends - self.content.lengths)[episodes]
        for places in _split_at_changes(self.content.file[episodes]):
            for begin in range(0, len(places), most):
                at = places[begin : begin + most]
                piece = PicturePiece(
                    path=self.paths[int(self.content.file[episodes[at[0]]])],
                    camera=self.camera,
                    stored=self.stored,
                    size=self.size,
                    spans=self.content.spans[rows[at], self.number],
                    rows=np.stack([episodes[at], steps[at]], 1),
                )
                yield at, piece


def _split_at_changes(values: np.ndarray) -> list[np.ndarray]:
    """Places 0, 1, ... in runs of equal values."""
    return np.split(np.arange(len(values)), np.flatnonzero(np.diff(values)) + 1) if len(values) else []
