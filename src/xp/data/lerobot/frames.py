"""All frames of a camera in row order, streamed from PNGs in parquet or from concatenated mp4 files."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import numpy as np

from xp.data.dataset import FramePieces
from xp.data.lerobot.folder import LeRobotFolder
from xp.data.lerobot.matching import match_frames
from xp.data.lerobot.pictures import check_size, picture_reader
from xp.data.lerobot.video import decode, piece_length
from xp.foreign.parquet import iter_batches
from xp.pictures import resize

_THREADS = 3
"""One decodes, two resize."""


def iter_frames(
    dataset: LeRobotFolder,
    camera: str,
    size: tuple[int, int],
    decoder: str,
    log: Callable[[str], None] | None = None,
) -> FramePieces:
    """Yield the frame of every row once, resized to `size` (height, width), in pieces of at most 33 frames, about 8 MB.

    Args:
        dataset: The dataset.
        camera: One of its cameras.
        size: Height and width in pixels.
        decoder: `torchcodec` or `pyav`; ignored in image mode.
        log: is told once of each video that comes at another rate than the rows.

    Raises:
        UserError: a file is damaged, a frame is missing or has another size than meta/info.json says.
    """
    stored = dataset.cameras[camera][:2]
    with ThreadPoolExecutor(_THREADS) as pool:
        if not dataset.info.streams[camera].is_video:
            yield from _image_pieces(dataset, camera, stored, size, pool)
            return
        for part in dataset.videos[camera]:
            if part.path in dataset.left_out.files:
                continue  # whoever asks for its frames is refused by `require_frames`
            for rows, frames in match_frames(part, dataset, _ahead(decode(part.path, decoder, stored), pool), log):
                check_size(part.path, camera, frames[0].shape[:2], stored)
                if stored == size:
                    yield from _runs(rows, list(frames))
                else:
                    yield rows, np.stack(list(pool.map(lambda frame: resize(frame, *size), frames)))


def _ahead[Piece](pieces: Iterator[Piece], pool: ThreadPoolExecutor) -> Iterator[Piece]:
    """The same pieces, each begun while the one before it is in use."""
    end = object()
    waiting = pool.submit(next, pieces, end)
    try:
        while (piece := waiting.result()) is not end:
            waiting = pool.submit(next, pieces, end)
            yield cast("Piece", piece)
    finally:
        waiting.cancel()


def _runs(rows: np.ndarray, frames: Sequence[np.ndarray]) -> FramePieces:
    """Frames that lie one after the other in one array, as one array: nothing is copied."""
    begin = 0
    for end in range(1, len(frames) + 1):
        if end == len(frames) or not _follows(frames[end - 1], frames[end]):
            yield rows[begin:end], _from_one_array(frames[begin:end])
            begin = end


def _follows(one: np.ndarray, other: np.ndarray) -> bool:
    return one.base is not None and one.base is other.base and _address(other) == _address(one) + one.nbytes


def _from_one_array(frames: Sequence[np.ndarray]) -> np.ndarray:
    base = frames[0].base
    if base is None or base.shape[1:] != frames[0].shape or not base.flags.c_contiguous:
        return np.stack(frames)
    first = (_address(frames[0]) - _address(base)) // frames[0].nbytes
    return base[first : first + len(frames)]


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _image_pieces(
    dataset: LeRobotFolder, camera: str, stored: tuple[int, int], size: tuple[int, int], pool: ThreadPoolExecutor
) -> FramePieces:
    row = 0
    key = dataset.info.streams[camera].key
    for path in dataset.data_files:
        read = picture_reader(dataset.root, path, camera, stored, partial(resize, height=size[0], width=size[1]))
        first = row
        for batch in iter_batches(path, "pictures of the dataset", [key], piece_length(stored)):
            cells = batch.column(0).to_pylist()
            frames = np.stack(list(pool.map(read, enumerate(cells, start=row - first))))
            yield np.arange(row, row + len(frames)), frames
            row += len(frames)
