"""All frames of a camera in row order, streamed from PNGs in parquet or from concatenated mp4 files."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from xp.data.lerobot.folder import LeRobotFolder
from xp.data.lerobot.matching import Pieces, match_frames
from xp.data.lerobot.pictures import check_size, picture_reader
from xp.data.lerobot.video import decode, piece_length
from xp.foreign.parquet import iter_batches
from xp.pictures import resize

_THREADS = 2


def iter_frames(
    dataset: LeRobotFolder,
    camera: str,
    size: tuple[int, int],
    decoder: str,
    log: Callable[[str], None] | None = None,
) -> Pieces:
    """Yield the frame of every row once, resized to `size` (height, width), in pieces of at most 33 frames and 64 MB.

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
            for rows, frames in match_frames(part, dataset, decode(part.path, decoder, stored), log):
                check_size(part.path, camera, frames.shape[1:3], stored)
                if stored != size:
                    frames = np.stack(list(pool.map(lambda frame: resize(frame, *size), frames)))
                yield rows, frames


def _image_pieces(
    dataset: LeRobotFolder, camera: str, stored: tuple[int, int], size: tuple[int, int], pool: ThreadPoolExecutor
) -> Pieces:
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
