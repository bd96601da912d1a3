"""Checks of a LeRobot dataset that has been read: counts that agree, video files that are complete."""

from pathlib import Path

import numpy as np

from xp.errors import UserError
from xp.foreign.paths import MissingError, opened, regular_file

_MOST_BOXES = 1 << 20
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


def check_rows(root: Path, index: np.ndarray, episode: np.ndarray, frame: np.ndarray, announced: int) -> None:
    """Refuse tables whose rows are not 0..N-1 with frames 0..length-1 in each episode, or not as many as announced."""
    if len(index) != announced:
        raise _disagree(root, f"meta/info.json announces {announced} frames and the data files hold {len(index)}")
    if not np.array_equal(index, np.arange(len(index))):
        raise _disagree(root, "the column 'index' of the data files does not count 0, 1, 2, ...")
    new = np.flatnonzero(np.diff(episode, prepend=-1))
    if not np.array_equal(episode[new], np.arange(len(new))):
        raise _disagree(root, "the episodes in the data files are not 0, 1, 2, ... in order")
    if not np.array_equal(frame, index - np.repeat(new, np.diff(np.append(new, len(index))))):
        raise _disagree(root, "the column 'frame_index' does not count 0, 1, 2, ... inside each episode")


def check_episodes(root: Path, lengths: np.ndarray, announced: np.ndarray, numbers: np.ndarray) -> None:
    """Refuse episode lengths [E] in the data files that differ from those in `meta/episodes` (its `numbers` sorted)."""
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise _disagree(root, "the episodes listed in meta/episodes are not 0, 1, 2, ...")
    if len(lengths) != len(announced):
        raise _disagree(root, f"meta/episodes lists {len(announced)} episodes and the data files hold {len(lengths)}")
    wrong = np.flatnonzero(lengths != announced)
    if len(wrong):
        e = int(wrong[0])
        raise _disagree(root, f"meta/episodes gives episode {e} {announced[e]} frames and the data has {lengths[e]}")


def _disagree(root: Path, what: str) -> UserError:
    return UserError(
        f"The dataset {root} contradicts itself: {what}. It was probably copied or recorded incompletely: copy it "
        "again, or record it again and let LeRobot's `finalize()` finish."
    )


def check_mp4(path: Path) -> None:
    """Refuse an mp4 file that is missing, empty or cut off, from its box sizes alone (ISO/IEC 14496-12, 4.2).

    Costs a few reads of 16 bytes; damage inside the boxes shows only when the frames are decoded. What begins as
    another kind of file (a playlist that names others) is refused too.
    """
    try:
        regular_file(path, "a video of the dataset")
    except MissingError as error:
        raise UserError(
            f"The video file {path} is missing. The copy is incomplete: copy the dataset's videos/ folder again, or "
            "give another dataset with data.root=<folder>."
        ) from error
    size, at, kinds = path.stat().st_size, 0, list[bytes]()
    with opened(path, "a video of the dataset") as file:
        while at < size and len(kinds) < _MOST_BOXES:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            kinds.append(head[4:8])
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:
                length = size - at
            if length < 8 or at + length > size:
                raise damaged_video(path, f"a part of {length} bytes starts at byte {at} of {size}")
            at += length
    if not {b"moov", b"mdat"} <= set(kinds) or kinds[0] not in _FIRST_BOXES:
        raise damaged_video(path, "it has no moov and mdat parts")


def damaged_video(path: Path, why: str, *, rates: bool = False) -> UserError:
    """The error for a video file that cannot be decoded completely, or (`rates`) has another rate than its rows."""
    if rates:
        return UserError(
            f"The video file {path} does not fit its rows ({why}). Mend `fps` in meta/info.json or the column "
            "'timestamp' of the data files, whichever is wrong; or encode the video again at the rate of the rows."
        )
    return UserError(
        f"The video file {path} is truncated or damaged ({why}). Copy it again from where the dataset came from; if "
        "the recording itself was cut off, record those episodes again or remove them with `lerobot-edit-dataset`."
    )


def broken_frame(path: Path, why: str, episode: int, frame: int) -> UserError:
    """The error for a video file that breaks off or is damaged where the frame of a row stands."""
    return damaged_video(path, f"frame {frame} of episode {episode} cannot be decoded: {why}")
