"""Episode videos that any browser plays."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np

from xp import atomic
from xp.errors import UserError, join_names
from xp.runs.execution.scheduling import ordinary_scheduling

ENCODERS = ("libx264", "libopenh264", "libvpx-vp9", "libsvtav1")
"""In order of preference; the first that this build of PyAV has is taken."""
LEAST_SIDE = 256
"""Smaller frames are enlarged by a whole factor, pixel by pixel: browsers would blur them."""


def write_video(path: Path, frames: np.ndarray, fps: float) -> Path:
    """Write frames [N, h, w, 3] uint8 as an mp4 at `path`, whole or not at all; gives back `path`."""
    frames = np.asarray(frames)
    assert frames.ndim == 4 and frames.shape[-1] == 3 and frames.dtype == np.uint8 and len(frames), frames.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.file(path) as temporary, ordinary_scheduling():
        _encode(temporary, _enlarged(frames), fps)
    return path


def sweep_unfinished(folder: Path) -> None:
    """Remove what a killed process left of videos that it was writing into `folder`; nobody else may write there."""
    for left in folder.glob(".*.mp4.tmp-*"):
        left.unlink(missing_ok=True)


def side_by_side(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Frames [N, h, w, 3] of several cameras with equal N beside one another; lower ones are padded with black."""
    height = max(video.shape[1] for video in videos)
    padded = [np.pad(video, ((0, 0), (0, height - video.shape[1]), (0, 0), (0, 0))) for video in videos]
    return np.concatenate(padded, axis=2)


def _enlarged(frames: np.ndarray) -> np.ndarray:
    """Frames with a shorter side of at least `LEAST_SIDE` pixels, and with even sides (4:2:0 needs that)."""
    factor = max(1, -(-LEAST_SIDE // min(frames.shape[1:3])))
    large = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.pad(large, ((0, 0), (0, large.shape[1] % 2), (0, large.shape[2] % 2), (0, 0)), mode="edge")


def _encode(path: Path, frames: np.ndarray, fps: float) -> None:
    import av
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    encoder = next((name for name in ENCODERS if name in av.codecs_available), None)
    if encoder is None:
        raise UserError(
            f"This build of PyAV has none of the video encoders {join_names(ENCODERS)}: install its own wheel "
            "(`pip install --force-reinstall av`), or do without videos (eval.videos=0, loop.videos=0)."
        )
    options = {"crf": "20", "preset": "veryfast"} if encoder == "libx264" else {}
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream = cast(VideoStream, container.add_stream(encoder, rate=rate, options=options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode(None))
