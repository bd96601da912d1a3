"""Sequential decoding of mp4 files into RGB frames, with torchcodec where it loads and PyAV otherwise.

Every frame keeps its presentation time, so that frames are matched to episodes by time and not by counting.
"""

import functools
import importlib.util
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from xp.data.checks import damaged_video
from xp.errors import UserError

Frames = Iterator[tuple[np.ndarray, np.ndarray]]
"""Pieces of a video: presentation times [n] float64 in seconds, frames [n, h, w, 3] uint8."""

_PIECE = 32
_THREADS = 2
_log = logging.getLogger(__name__)


def choose_decoder(wanted: str, log: Callable[[str], None] | None = None) -> str:
    """Turn `auto` into `torchcodec` where it loads, else `pyav`, with one line of advice given to `log`.

    Raises:
        UserError: torchcodec was asked for by name and does not load.
    """
    if wanted == "pyav":
        return "pyav"
    if torchcodec_loads():
        return "torchcodec"
    if wanted == "torchcodec":
        raise UserError(
            "data.decoder=torchcodec was asked for, but torchcodec does not load here: it needs FFmpeg's shared "
            "libraries (versions 4 to 8; on Debian `apt install ffmpeg`, with conda `conda install ffmpeg`). Install "
            "them, or type data.decoder=auto to decode with PyAV."
        )
    say = log or _log.info
    say("decoding videos with PyAV: torchcodec does not load here (`apt install ffmpeg` gives what it needs)")
    return "pyav"


@functools.cache
def torchcodec_loads() -> bool:
    """Whether torchcodec finds FFmpeg here; tried in a subprocess, where a crash or its long traceback does no harm."""
    if importlib.util.find_spec("torchcodec") is None:
        return False
    command = [sys.executable, "-c", "from torchcodec.decoders import VideoDecoder"]
    try:
        return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def decode(path: Path, decoder: str) -> Frames:
    """Decode a whole mp4 file in order, in pieces of bounded size.

    Raises:
        UserError: the file cannot be decoded to its end.
    """
    return _decode_torchcodec(path) if decoder == "torchcodec" else _decode_pyav(path)


def _decode_pyav(path: Path) -> Frames:
    import av
    from av.error import FFmpegError

    times: list[float] = []
    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = _THREADS
            for frame in container.decode(stream):
                if frame.pts is None or frame.time_base is None:
                    continue
                times.append(float(frame.pts * frame.time_base))
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == _PIECE:
                    yield np.asarray(times), np.stack(frames)
                    times, frames = [], []
    except (FFmpegError, IndexError) as error:
        raise damaged_video(path, str(error)) from error
    if frames:
        yield np.asarray(times), np.stack(frames)


def _decode_torchcodec(path: Path) -> Frames:
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=_THREADS, seek_mode="exact")
        count = decoder.metadata.num_frames or 0
        for start in range(0, count, _PIECE):
            piece = decoder.get_frames_in_range(start, min(start + _PIECE, count))
            yield piece.pts_seconds.numpy(), piece.data.numpy()
    except (RuntimeError, ValueError) as error:
        raise damaged_video(path, str(error).splitlines()[0]) from error
