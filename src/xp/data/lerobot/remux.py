"""Parts of mp4 files without decoding: packets are copied from key frame to key frame, or the file is hard-linked."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xp.data.lerobot.checks import damaged_video
from xp.data.lerobot.video import ONLY_MP4, check_codec

Span = tuple[float, float]
"""Start and end in seconds of a file."""


@dataclass(frozen=True)
class _Packets:
    """Presentation and decoding times [n] in ticks of `base` seconds, in decoding order, and which are key frames."""

    pts: np.ndarray
    key: np.ndarray
    base: float

    def needed(self, span: Span, fps: float) -> np.ndarray:
        """Places of the frames whose times lie in the span, to half a frame."""
        seconds = self.pts * self.base + 0.5 / fps
        return np.flatnonzero((seconds >= span[0]) & (seconds < span[1]))


@dataclass(frozen=True)
class _Piece:
    """Packets `first` .. `last` of the source that go to a file, and by how many ticks their times move."""

    first: int
    last: int
    earliest: int
    shift: int


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def cut(source: Path, spans: Sequence[Span], target: Path, fps: float) -> list[float] | None:
    """Copy the packets of `spans` (ascending) of an mp4 file, one after the other, into a new one. Nothing is decoded.

    A span that does not begin at a key frame takes the frames from the key frame before it along: they are in the file
    and belong to nobody. What is copied is decoded to exactly the same pixels.

    Returns:
        The time in seconds at which each span starts in the new file; None, and no file, where the container does not
        allow such a cut (a frame that is due would not be there).

    Raises:
        UserError: the source cannot be read.
    """
    packets = _scan(source)
    plan = _plan(packets, spans, fps)
    if plan is None:
        return None
    pieces, starts = plan
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy(source, target, pieces, packets.base)
    if _complete(target, spans, starts, fps):
        return starts
    target.unlink()
    return None


def _plan(packets: _Packets, spans: Sequence[Span], fps: float) -> tuple[list[_Piece], list[float]] | None:
    """The pieces to copy, ascending and apart, and where each span starts afterwards; None where frames are missing."""
    pieces: list[_Piece] = []
    starts: list[float] = []
    end, frame = 0, max(1, round(1 / fps / packets.base))
    for span in spans:
        needed = packets.needed(span, fps)
        if len(needed) != round((span[1] - span[0]) * fps):
            return None
        first, last = int(needed.min()), int(needed.max())
        keys = np.flatnonzero(packets.key[: first + 1] & (packets.pts[: first + 1] <= packets.pts[needed].min()))
        if not len(keys):
            return None
        key = int(keys[-1])
        if pieces and key <= pieces[-1].last:  # begins inside what is copied already
            pieces[-1] = replace(pieces[-1], last=max(last, pieces[-1].last))
        else:
            earliest = int(packets.pts[key])
            pieces.append(_Piece(key, last, earliest, end - earliest))
        piece = pieces[-1]
        starts.append(max(0.0, span[0] + piece.shift * packets.base))
        end = int(packets.pts[piece.first : piece.last + 1].max()) + piece.shift + frame
    return pieces, starts


def _scan(path: Path) -> _Packets:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), **ONLY_MP4) as container:
            stream = container.streams.video[0]
            check_codec(path, stream)
            found = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and p.pts is not None]
            base = float(stream.time_base or 0)
    except (FFmpegError, IndexError, ValueError) as error:
        raise damaged_video(path, str(error)) from error
    if not found or not base:
        raise damaged_video(path, "it has no frames")
    return _Packets(np.array([pts for pts, _ in found], np.int64), np.array([key for _, key in found], bool), base)


def _copy(source: Path, target: Path, pieces: Sequence[_Piece], base: float) -> None:
    import av

    options = {"video_track_timescale": str(round(1 / base))}
    with (
        av.open(str(source), **ONLY_MP4) as incoming,
        av.open(str(target), "w", format="mp4", options=options) as outgoing,
    ):
        stream = incoming.streams.video[0]
        written = outgoing.add_stream_from_template(stream, opaque=True)
        written.time_base = stream.time_base
        wanted = iter(pieces)
        piece = next(wanted)
        packets = ((packet.pts, packet) for packet in incoming.demux(stream) if packet.size)
        for place, (time, packet) in enumerate((time, packet) for time, packet in packets if time is not None):
            if place > piece.last:
                following = next(wanted, None)
                if following is None:
                    break
                piece = following
            if place >= piece.first and time >= piece.earliest:
                _mux(outgoing, written, packet, piece.shift)


def _mux(outgoing: Any, stream: Any, packet: Any, shift: int) -> None:
    decoded = packet.pts if packet.dts is None else packet.dts
    packet.pts, packet.dts, packet.stream = packet.pts + shift, decoded + shift, stream
    outgoing.mux(packet)


def _complete(path: Path, spans: Sequence[Span], starts: Sequence[float], fps: float) -> bool:
    """Whether every frame that is due is in the file, at its time."""
    packets = _scan(path)
    times = np.sort(packets.pts * packets.base)
    for (begin, end), start in zip(spans, starts, strict=True):
        due = start + np.arange(round((end - begin) * fps)) / fps
        after = np.clip(np.searchsorted(times, due), 1, len(times) - 1) if len(times) > 1 else np.zeros(len(due), int)
        near = np.minimum(np.abs(times[after] - due), np.abs(times[after - 1] - due))
        if (near > 0.25 / fps).any():
            return False
    return True
