"""Where the frame of each row stands in its mp4 file, without decoding: its time, its number, where decoding begins.

An mp4 file lists its frames with their times and says which are key frames. Rows are matched to these times by the same
rules as to decoded frames (`matching`), so the same rows have the same frames, and the same files are refused. The
index of a camera is an array that is kept beside the frame cache and mapped (`xp.data.cache_store`).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xp.data.cache_store import CacheStore, Wanted
from xp.data.lerobot.checks import damaged_video
from xp.data.lerobot.folder import LeRobotFolder, VideoPart
from xp.data.lerobot.matching import match_frames
from xp.data.lerobot.video import ONLY_MP4, check_codec, check_size
from xp.errors import UserError
from xp.foreign.text import printable

_FORMAT = 1
"""Counted up when the content of an index changes."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Of each row [N] int64: the file its frame is in, the frame's time, number and starting point."""

    part: np.ndarray
    """Place of the file in `LeRobotFolder.videos[camera]`."""
    time: np.ndarray
    """Presentation time in the units of the file's video stream."""
    number: np.ndarray
    """Place of the frame in its file, in the order of times."""
    start: np.ndarray
    """Decoding time of the last key frame that is not shown later, in the same units: from there it can be decoded."""


def open_index(
    dataset: LeRobotFolder,
    camera: str,
    store: CacheStore,
    log: Callable[[str], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> VideoIndex:
    """The index of a camera, mapped where a process of this machine has made it, else made.

    Args:
        dataset: the dataset.
        camera: one of its cameras that are videos.
        store: where the index is or will be; where it has no room or cannot be written, the index is in memory.
        log: as in `match_frames`.
        check: called after each file.

    Raises:
        UserError: a row has no frame, or a file cannot be read.
    """
    shape = (3 * dataset.num_frames * np.dtype(np.int64).itemsize,)
    made: list[np.ndarray] = []
    refused: list[UserError] = []

    def plan() -> tuple[str, Callable[[np.ndarray], None]]:
        try:
            made.append(_index(dataset, camera, log, check))
        except UserError as error:
            refused.append(error)
            raise
        return name, lambda blob: np.copyto(blob, made[0].reshape(-1).view(np.uint8))

    key = "\n".join([f"video index {_FORMAT}", dataset.fingerprint, camera, dataset.camera_fingerprint(camera)])
    name = f"video-index_{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    try:
        blob = np.asarray(store.open_all([Wanted(name, (name,), shape, plan)])[0])
    except UserError:
        if refused:
            raise
        table = made[0] if made else _index(dataset, camera, log, check)
    else:
        table = blob.view(np.int64).reshape(3, dataset.num_frames)
    return VideoIndex(_parts(dataset, camera), *table)


def _parts(dataset: LeRobotFolder, camera: str) -> np.ndarray:
    of_episode = np.zeros(dataset.episodes.num, np.int64)
    for number, part in enumerate(dataset.videos[camera]):
        of_episode[part.episodes] = number
    return of_episode[dataset.episode_index]


def _index(
    dataset: LeRobotFolder, camera: str, log: Callable[[str], None] | None, check: Callable[[], None]
) -> np.ndarray:
    """[3, N] int64: time, number and start of each row's frame."""
    table = np.zeros((3, dataset.num_frames), np.int64)
    stored = dataset.cameras[camera][:2]
    for part in dataset.videos[camera]:
        if part.path in dataset.left_out.files:
            continue  # whoever asks for its frames is refused by `require_frames`
        times, starts, unit = listed_frames(part, stored)
        numbers = np.arange(len(times))
        listed = iter([(times * unit, numbers)] if len(times) else [])
        for rows, found in match_frames(part, dataset, listed, log):
            table[:, rows] = times[found], found, starts[found]
        check()
    return table


def listed_frames(part: VideoPart, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, float]:
    """What an mp4 file lists: times [n] and starts [n] int64 of its frames in the order of times, and seconds per unit.

    Raises:
        UserError: the file cannot be read, or has frames of another size than `size`.
    """
    import av
    from av.error import FFmpegError

    path = part.path
    try:
        with av.open(str(path), **ONLY_MP4) as container:
            stream = container.streams.video[0]
            check_codec(path, stream)
            check_size(path, stream.codec_context.height, stream.codec_context.width, size)
            found = [
                (packet.pts, packet.pts if packet.dts is None else packet.dts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.pts is not None and packet.size and not packet.is_discard
            ]
            unit = float(stream.time_base or 1)
    except (FFmpegError, IndexError, ValueError) as error:
        raise damaged_video(path, printable(error)) from error
    table = np.array(found, np.int64).reshape(len(found), 3)
    table = table[np.argsort(table[:, 0], kind="stable")]
    keys = table[table[:, 2] == 1]
    if not len(keys):
        return table[:, 0], np.full(len(table), table[:, 1].min() if len(table) else 0), unit
    before = np.searchsorted(keys[:, 0], table[:, 0], side="right") - 1
    return table[:, 0], keys[np.maximum(before, 0), 1], unit
