"""Streamed frames as a `FrameSource`: a batch's frames in pieces, decoded by processes ahead of the batch.

Memory is bounded: at most `LOOK_AHEAD` batches, and no more than `LOOK_AHEAD_BYTES`, are decoded before they are asked
for; beside them there are `Decoders`' processes with a piece each, and the few batches in use.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from xp.data.buffers import Buffers
from xp.data.cache import check_cameras
from xp.data.dataset import Dataset
from xp.data.frame_source import FrameLocator, StreamedDataset
from xp.data.stream.decoders import Decoders
from xp.errors import UserError

LOOK_AHEAD = 4
"""Batches of a camera that are decoded ahead."""
LOOK_AHEAD_BYTES = 512_000_000
"""Bytes of frames, of all cameras together, that are decoded ahead."""
_PIECE_FRAMES = 16
_PIECE_BYTES = 16_000_000
_STALE = 16
"""Batches after which one that was announced and not asked for is given up."""


def open_stream(
    dataset: Dataset,
    sizes: Mapping[str, tuple[int, int]],
    *,
    workers: int,
    cache_dir: Path,
    cache_gb: float,
    log: Callable[[str], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> "dict[str, StreamedFrames]":
    """The frames of the cameras in `sizes` (height, width), decoded when needed; see `xp.data.frames.frames_of`.

    Raises:
        UserError: the dataset's format has no access to single frames, a row has no frame, or a file is damaged.
    """
    check_cameras(dataset, sizes)
    if not isinstance(dataset, StreamedDataset):
        raise UserError(
            f"The frames of {dataset.root} cannot be streamed: its data format reads whole files only. Type "
            "data.frames=cache."
        )
    located: dict[str, tuple[FrameLocator, tuple[int, int]]] = {}
    for camera, (height, width) in sizes.items():
        size = (int(height), int(width))
        decoder = dataset.choose_decoder(camera, log)
        given = {"cache_dir": cache_dir, "cache_gb": cache_gb, "log": log, "check": check}
        located[camera] = dataset.frame_locator(camera, size, decoder, **given), size
    frame_bytes = max((height * width * 3 for _, (height, width) in located.values()), default=1)
    most = max(1, min(_PIECE_FRAMES, _PIECE_BYTES // frame_bytes))
    decoders, room = Decoders(workers, most * frame_bytes), _Room(LOOK_AHEAD_BYTES)
    return {
        camera: StreamedFrames(locator, (dataset.num_frames, *size, 3), decoders, room, most)
        for camera, (locator, size) in located.items()
    }


class _Room:
    """Bytes that may still be decoded ahead."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._lock = most, 0, threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there is room; one batch that is larger than all of it may be decoded ahead, too."""
        with self._lock:
            if self._taken and self._taken + size > self._most:
                return False
            self._taken += size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self._taken -= size


@dataclass(frozen=True, eq=False)
class _Reading:
    """Frames of a batch that are being read, and when they were announced."""

    frames: np.ndarray
    pieces: "Sequence[Future[None]]"
    announced: int

    def result(self) -> np.ndarray:
        try:
            for piece in self.pieces:
                piece.result()
        except BaseException:
            self.cancel()
            raise
        return self.frames

    def cancel(self) -> None:
        for piece in self.pieces:
            piece.cancel()


class StreamedFrames:
    """The frames of a camera, decoded when they are needed; a `FrameSource`.

    Args:
        locator: where they are.
        shape: (N, h, w, 3).
        decoders: what reads them, for all cameras.
        room: what may be decoded ahead, of all cameras.
        piece_frames: how many frames are read together at most.
    """

    look_ahead = LOOK_AHEAD

    def __init__(
        self, locator: FrameLocator, shape: tuple[int, ...], decoders: Decoders, room: _Room, piece_frames: int
    ) -> None:
        self.shape = shape
        self.decoders = decoders
        self._locator, self._room, self._piece_frames = locator, room, piece_frames
        self._buffers = Buffers(keep=LOOK_AHEAD + 3)
        self._waiting: OrderedDict[tuple[tuple[int, ...], bytes], _Reading] = OrderedDict()
        self._asked = 0
        self._lock = threading.Lock()

    def expect(self, rows: Int[np.ndarray, "batch history"]) -> None:
        """Begin to read the frames of `rows`, unless too much is being read ahead already; see `FrameSource`."""
        with self._lock:
            key = _key(rows)
            if key not in self._waiting and self._room.take(self._bytes(rows)):
                self._waiting[key] = self._begin(rows)

    def frames(
        self, rows: Int[np.ndarray, "batch history"]
    ) -> UInt8[np.ndarray, "batch history height width channels"]:
        """See `FrameSource`."""
        with self._lock:
            self._asked += 1
            reading = self._waiting.pop(_key(rows), None)
            if reading is None:
                reading = self._begin(rows)
            else:
                self._room.give_back(reading.frames.nbytes)
            self._give_up_stale()
        return reading.result()

    def close(self) -> None:
        """End the processes of all cameras."""
        self.decoders.close()

    def _give_up_stale(self) -> None:
        """Forget what was announced long ago, such as by a validation that was left."""
        while self._waiting:
            key, oldest = next(iter(self._waiting.items()))
            if oldest.announced > self._asked - _STALE:
                return
            oldest.cancel()
            self._room.give_back(oldest.frames.nbytes)
            del self._waiting[key]

    def _begin(self, rows: np.ndarray) -> _Reading:
        frames = self._buffers.empty((*rows.shape, *self.shape[1:]))
        wanted, which = np.unique(rows, return_inverse=True)
        which, flat, pieces = which.reshape(-1), frames.reshape(-1, *self.shape[1:]), []
        for located in self._locator.locate(wanted, self._piece_frames):
            number = np.full(len(wanted), -1)
            number[located.places] = np.arange(len(located.places))
            put = partial(_put, flat, number[which])
            pieces.append(self.decoders.begin(located.piece, put))
        return _Reading(frames, pieces, self._asked)

    def _bytes(self, rows: np.ndarray) -> int:
        return rows.size * int(np.prod(self.shape[1:]))


def _key(rows: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return rows.shape, rows.tobytes()


def _put(frames: np.ndarray, number: np.ndarray, read: np.ndarray) -> None:
    """Copy frame `number[i]` of those that were read to place i; where it is -1, the frame is in another piece."""
    for place in np.flatnonzero(number >= 0):
        frames[place] = read[number[place]]
