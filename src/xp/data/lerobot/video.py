"""Sequential decoding of mp4 files into RGB frames, by PyAV, or by torchcodec where that is asked for.

Every frame keeps its presentation time, so that frames are matched to episodes by time and not by counting.
"""

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xp.data.buffers import Buffers
from xp.data.lerobot.checks import damaged_video
from xp.errors import UserError
from xp.foreign.text import printable

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from torchcodec.decoders import VideoDecoder

Frames = Iterator[tuple[np.ndarray, list[np.ndarray]]]
"""Pieces of a video: presentation times [n] float64 in seconds, and n frames [h, w, 3] uint8."""

ONLY_MP4: dict[str, Any] = {"format": "mp4", "options": {"protocol_whitelist": "file"}}
"""For `av.open`: the format is named, and no other file is followed, whatever the content says it is."""
_PIECE = 32
_PIECE_BYTES = 8_000_000
"""What fits into a processor's own memory is copied faster; more would gain nothing."""
_THREADS = 1
"""Of a decoder. Two take up to half as much time of the processor again; who copies and resizes works beside it."""


def choose_decoder(wanted: str) -> str:
    """Turn `auto` into `pyav`: a frame costs both the same, and torchcodec imports torch in every process that decodes.

    Raises:
        UserError: torchcodec was asked for by name and does not load.
    """
    if wanted == "torchcodec" and not torchcodec_loads():
        raise UserError(
            "data.decoder=torchcodec was asked for, but torchcodec does not load here: it needs FFmpeg's shared "
            "libraries (versions 4 to 8; on Debian `apt install ffmpeg`, with conda `conda install ffmpeg`). Install "
            "them, or type data.decoder=auto to decode with PyAV."
        )
    return "pyav" if wanted == "auto" else wanted


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


def piece_length(size: tuple[int, int]) -> int:
    """How many frames of `size` (height, width) are held at a time: 32, fewer where they are large (8 MB in all)."""
    return max(1, min(_PIECE, _PIECE_BYTES // (3 * size[0] * size[1])))


class UndecodableError(Exception):
    """A frame of a video cannot be decoded; the message says why. Who knows the episode makes a `UserError` of it."""


def decode(path: Path, decoder: str, size: tuple[int, int]) -> Frames:
    """Decode a whole mp4 file in order, in pieces of bounded size.

    Args:
        path: The file.
        decoder: `torchcodec` or `pyav`.
        size: The announced height and width; frames of another size are refused before they are converted.

    Raises:
        UndecodableError: the file cannot be decoded to its end.
        UserError: it has frames of another size.
    """
    return _decode_torchcodec(path, size) if decoder == "torchcodec" else _decode_pyav(path, size)


def _decode_pyav(path: Path, size: tuple[int, int]) -> Frames:
    from av.error import FFmpegError
    from av.video.reformatter import VideoReformatter

    times: list[float] = []
    piece, to_rgb = piece_length(size), VideoReformatter()
    buffers = Buffers()
    frames = buffers.empty((piece, *size, 3))
    try:
        with opened(path, size, _THREADS) as (container, stream):
            for frame in container.decode(stream):
                if frame.pts is None or frame.time_base is None:
                    continue
                check_size(path, frame.height, frame.width, size)
                frames[len(times)] = rgb(to_rgb, frame)
                times.append(float(frame.pts * frame.time_base))
                if len(times) == piece:
                    yield np.asarray(times), list(frames)
                    times, frames = [], buffers.empty(frames.shape)
    except (FFmpegError, IndexError, ValueError, UndecodableError) as error:
        if times:  # what came before it is whole
            yield np.asarray(times), list(frames[: len(times)])
        raise UndecodableError(printable(error)) from error
    if times:
        yield np.asarray(times), list(frames[: len(times)])


@contextmanager
def opened(path: Path, size: tuple[int, int], threads: int) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """The container and its video stream, of the announced size."""
    import av

    with av.open(str(path), **ONLY_MP4) as container:
        stream = container.streams.video[0]
        check_codec(path, stream)
        check_size(path, stream.codec_context.height, stream.codec_context.width, size)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield container, stream


def rgb(to_rgb: "VideoReformatter", frame: "VideoFrame") -> np.ndarray:
    """The pixels [h, w, 3] of `frame.to_ndarray(format="rgb24")`, which sets up a conversion for each frame and copies.

    Raises:
        UndecodableError: the decoder marks the frame as damaged: it was made up from what could be read.
    """
    if frame.is_corrupt:
        raise UndecodableError("the decoder marks the frame as damaged")
    plane = to_rgb.reformat(frame, format="rgb24").planes[0]  # kept alive by the array
    lines = np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)
    return lines[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)


def _decode_torchcodec(path: Path, size: tuple[int, int]) -> Frames:
    piece_size = piece_length(size)
    try:
        decoder = open_torchcodec(path, size, _THREADS)
        count = decoder.metadata.num_frames or 0
        for start in range(0, count, piece_size):
            stop = min(start + piece_size, count)
            try:
                piece = decoder.get_frames_in_range(start, stop)
            except RuntimeError:  # one of them, and those before it are whole
                for number in range(start, stop):
                    piece = decoder.get_frames_in_range(number, number + 1)
                    yield piece.pts_seconds.numpy(), list(piece.data.numpy())
            else:
                yield piece.pts_seconds.numpy(), list(piece.data.numpy())
    except (RuntimeError, ValueError) as error:
        raise UndecodableError(printable(str(error).splitlines()[0])) from error


def open_torchcodec(path: Path, size: tuple[int, int], threads: int) -> "VideoDecoder":
    """The decoder of a file in torchcodec, whose frames have the announced size."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact")
    check_size(path, decoder.metadata.height or size[0], decoder.metadata.width or size[1], size)
    return decoder


def check_codec(path: Path, stream: "VideoStream") -> None:
    """Refuse a stream in a format that FFmpeg does not know; PyAV would end the process when it is copied."""
    if stream.codec_context is None:
        raise damaged_video(path, "its frames are in no format that FFmpeg decodes")


def check_size(path: Path, height: int, width: int, announced: tuple[int, int]) -> None:
    """Refuse a video of another size than meta/info.json announces."""
    if (height, width) != tuple(announced):
        raise UserError(
            f"The video {path} has frames of {height}x{width}, but meta/info.json says {announced[0]}x{announced[1]} "
            "(height x width). Correct `shape` in meta/info.json, or record again."
        )
