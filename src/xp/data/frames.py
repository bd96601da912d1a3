"""All frames of a camera in row order, streamed from PNGs in parquet or from concatenated mp4 files."""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from xp.data.checks import damaged_video
from xp.data.reader import Dataset, VideoPart
from xp.data.tables import iter_bytes
from xp.data.video import decode
from xp.errors import UserError

Pieces = Iterator[tuple[np.ndarray, np.ndarray]]
"""Row numbers [n] int64 and their frames [n, h, w, 3] uint8."""

_PIECE = 32
_THREADS = 2


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [h, w, 3] uint8 to `size` (height, width) by Lanczos with antialiasing, as Octo's data loading does.

    PIL's LANCZOS is the kernel of `tf.image.resize(method="lanczos3", antialias=True)` in Octo's `obs_transforms`:
    sinc(x) sinc(x/3), widened when shrinking. PIL rounds and clips between its two passes; on smooth pictures that
    moves a pixel by at most one grey level, on pixel noise by more.
    """
    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def iter_frames(dataset: Dataset, camera: str, size: tuple[int, int], decoder: str) -> Pieces:
    """Yield every frame of `camera` once, resized to `size` (height, width), in pieces of at most 32 frames.

    Args:
        dataset: The dataset.
        camera: One of its cameras.
        size: Height and width in pixels.
        decoder: `torchcodec` or `pyav`; ignored in image mode.

    Raises:
        UserError: a file is damaged, a frame is missing or has another size than meta/info.json says.
    """
    stored = dataset.cameras[camera][:2]
    with ThreadPoolExecutor(_THREADS) as pool:
        if not dataset.info.streams[camera].is_video:
            yield from _image_pieces(dataset, camera, stored, size, pool)
            return
        for part in dataset.videos[camera]:
            for rows, frames in match_frames(part, dataset, decode(part.path, decoder)):
                _check_size(part.path, camera, frames.shape[1:3], stored)
                if stored != size:
                    frames = np.stack(list(pool.map(lambda frame: resize(frame, size), frames)))
                yield rows, frames


def _image_pieces(
    dataset: Dataset, camera: str, stored: tuple[int, int], size: tuple[int, int], pool: ThreadPoolExecutor
) -> Pieces:
    row = 0
    key = dataset.info.streams[camera].key
    for path in dataset.data_files:
        for cells in iter_bytes(path, key, _PIECE):
            read = _image_reader(dataset.root, path, camera, stored, size)
            frames = np.stack(list(pool.map(read, cells)))
            yield np.arange(row, row + len(frames)), frames
            row += len(frames)


def _image_reader(
    root: Path, path: Path, camera: str, stored: tuple[int, int], size: tuple[int, int]
) -> Callable[[dict], np.ndarray]:
    """A function from one parquet cell (`bytes`, or `path` of a file beside the data) to a frame."""

    def read(cell: dict) -> np.ndarray:
        try:
            source = io.BytesIO(cell["bytes"]) if cell["bytes"] else root / cell["path"]
            with Image.open(source) as image:
                frame = np.asarray(image.convert("RGB"))
        except (OSError, TypeError, SyntaxError, ValueError) as error:
            raise UserError(
                f"An image of camera '{camera}' in {path} cannot be decoded ({error}). Copy the file again from where "
                "the dataset came from, or record the dataset again."
            ) from error
        _check_size(path, camera, frame.shape[:2], stored)
        return resize(frame, size)

    return read


def match_frames(part: VideoPart, dataset: Dataset, decoded: Pieces) -> Pieces:
    """Give decoded frames, which carry times, their row numbers in the dataset.

    Frame i of an episode is due `from_timestamp + i / fps`; the frame within half a frame's time of that is taken.
    (LeRobot's concatenation lets `from_timestamp` drift by fractions of a millisecond.) Frames due to nobody, such
    as those of deleted episodes, are skipped.

    Raises:
        UserError: a frame that is due is not there; the message names episode and frame.
    """
    lengths = dataset.episodes.lengths[part.episodes]
    rows = dataset.rows(part.episodes)
    due = np.repeat(part.from_timestamps, lengths) + dataset.frame_index[rows] / dataset.fps
    tolerance = 0.5 / dataset.fps
    done = 0
    for times, frames in decoded:
        nearest = np.searchsorted(due, times - tolerance, side="right")
        near = np.abs(due[np.minimum(nearest, len(due) - 1)] - times) < tolerance
        close = np.flatnonzero(near & (nearest < len(due)))
        taken = nearest[close]
        if len(taken):
            _check_sequence(part, dataset, rows, done, taken)
            yield rows[taken], frames[close]
            done = int(taken[-1]) + 1
    _check_sequence(part, dataset, rows, done, np.asarray([len(due)]))


def _check_sequence(part: VideoPart, dataset: Dataset, rows: np.ndarray, done: int, taken: np.ndarray) -> None:
    """Frames must be taken one after another, none left out and none twice."""
    wrong = np.flatnonzero(taken != done + np.arange(len(taken)))
    if len(wrong):
        row = rows[min(done + int(wrong[0]), len(rows) - 1)]
        raise damaged_video(
            part.path,
            f"frame {dataset.frame_index[row]} of episode {dataset.episode_index[row]} is missing or out of order; "
            f"{len(rows)} frames at {dataset.fps:g} fps were announced",
        )


def _check_size(path: Path, camera: str, found: tuple[int, ...], announced: tuple[int, int]) -> None:
    if tuple(found) != tuple(announced):
        raise UserError(
            f"Camera '{camera}' has frames of {found[0]}x{found[1]} in {path}, but meta/info.json says "
            f"{announced[0]}x{announced[1]} (height x width). Correct `shape` in meta/info.json, or record again."
        )
