"""Where windows take their frames from: `FrameSource`, of which a mapped array (the frame cache) and a stream are two.

What a stream (`xp.data.stream`) asks of a dataset is here, too: a data format that can read single frames has
`frame_locator`.

Letters: N rows of the dataset, B windows of a batch, T observations of a window, n frames.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from xp.data.buffers import Buffers


@runtime_checkable
class FrameSource(Protocol):
    """The frames of a camera by row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, h, w, 3)."""
        ...

    @property
    def look_ahead(self) -> int:
        """How many batches are worth announcing before they are asked for; 0: none."""
        ...

    def expect(self, rows: Int[np.ndarray, "batch history"]) -> None:
        """Say that `rows` will be asked for soon. A hint: it changes no frame."""
        ...

    def frames(
        self, rows: Int[np.ndarray, "batch history"]
    ) -> UInt8[np.ndarray, "batch history height width channels"]:
        """The frames [B, T, h, w, 3] of `rows`, each from 0 to N-1, in memory that nobody else uses.

        Raises:
            UserError: a file with such a frame is damaged.
        """
        ...


class ArrayFrames:
    """The frames of an array [N, h, w, 3] uint8, such as an entry of the frame cache."""

    look_ahead = 0

    def __init__(self, array: UInt8[np.ndarray, "rows height width channels"]) -> None:
        self._kept = array
        # A plain view: indexing a memmap object costs several microseconds more than indexing an array.
        self._pixels = np.asarray(array)
        self._buffers = Buffers()

    @property
    def shape(self) -> tuple[int, ...]:
        """See `FrameSource`."""
        return self._pixels.shape

    def expect(self, rows: Int[np.ndarray, "batch history"]) -> None:
        """Nothing to do."""

    def frames(
        self, rows: Int[np.ndarray, "batch history"]
    ) -> UInt8[np.ndarray, "batch history height width channels"]:
        """See `FrameSource`."""
        out = self._buffers.empty((*rows.shape, *self._pixels.shape[1:]))
        # The rows are within bounds; mode="raise" would copy once more, to leave `out` alone on an error.
        return self._pixels.take(rows, axis=0, out=out, mode="clip")


CameraFrames = Mapping[str, np.ndarray | FrameSource]
"""Frames by camera; an array is [N, h, w, 3] uint8."""


def frame_source(frames: "np.ndarray | FrameSource") -> FrameSource:
    """`frames` as a source; an array [N, h, w, 3] is one, too."""
    return ArrayFrames(frames) if isinstance(frames, np.ndarray) else frames


class OpenFiles:
    """What a process has opened, by key; the least recently used are closed.

    Args:
        most: how many are kept open.
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._open: OrderedDict[object, Any] = OrderedDict()

    def get[Opened](self, key: object, make: Callable[[], Opened]) -> Opened:
        """What is open under `key`, or what `make()` gives, which may have a method `close`."""
        if key not in self._open:
            while len(self._open) >= self._most:
                self._close(self._open.popitem(last=False)[1])
            self._open[key] = make()
        self._open.move_to_end(key)
        return cast("Opened", self._open[key])

    def forget(self, key: object) -> None:
        """Close what is open under `key`, if it is."""
        self._close(self._open.pop(key, None))

    @staticmethod
    def _close(opened: object) -> None:
        close = getattr(opened, "close", None)
        if close is not None:
            with suppress(Exception):  # of a damaged file; nobody reads it any more
                close()


@runtime_checkable
class FramePiece(Protocol):
    """Frames of one camera that are read together, in any process: it can be pickled."""

    def __len__(self) -> int:
        """n, how many frames."""
        ...

    def read(self, files: OpenFiles) -> Iterator[UInt8[np.ndarray, "height width channels"]]:
        """The n frames [h, w, 3], in order.

        Args:
            files: what was opened for earlier pieces; pieces of a file open it once.

        Raises:
            UserError: the file is damaged; the message names it and the episode.
        """
        ...


@dataclass(frozen=True, eq=False)
class LocatedPiece:
    """A piece, and at which of the rows that were asked for its frames stand."""

    piece: FramePiece
    places: Int[np.ndarray, " n"]


@runtime_checkable
class FrameLocator(Protocol):
    """Knows in which file the frame of each row of a camera is."""

    def locate(self, rows: Int[np.ndarray, " n"], most: int) -> Sequence[LocatedPiece]:
        """Pieces of at most `most` frames that together hold the frame of each of `rows` (ascending, each once)."""
        ...


@runtime_checkable
class StreamedDataset(Protocol):
    """A `xp.data.dataset.Dataset` whose frames can be read one by one."""

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
    ) -> FrameLocator:
        """Where the frames of `camera` are, resized to `size` (height, width) when they are read.

        Args:
            camera: one of the dataset's cameras.
            size: height and width in pixels.
            decoder: as `Dataset.choose_decoder` gives it.
            cache_dir: where an index of the files may be kept.
            cache_gb: bound on that folder in gigabytes (10^9 bytes).
            log: takes single lines.
            check: called now and then; what it raises ends the work.

        Raises:
            UserError: a row has no frame, or a file is damaged.
        """
        ...
