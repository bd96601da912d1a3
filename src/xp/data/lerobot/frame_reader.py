"""Single frames of an mp4 file, reached by its key frames: the pixels that `xp.data.lerobot.video.decode` gives."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from xp.data.lerobot.video import UndecodableError, check_size, open_torchcodec, opened, rgb
from xp.foreign.text import printable

if TYPE_CHECKING:
    from av import VideoFrame
    from torchcodec.decoders import VideoDecoder


@runtime_checkable
class FrameReader(Protocol):
    """An open mp4 file of which single frames are read: the pixels that `decode` gives."""

    def read(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        """Frames [h, w, 3] uint8.

        Args:
            frames: [n, 3] int64 in the order of times: time, number in the file, and decoding time of the key frame.

        Raises:
            UndecodableError: the frame that comes next cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_reader(path: Path, decoder: str, size: tuple[int, int]) -> FrameReader:
    """Open an mp4 file for single frames; arguments as of `decode`, whose errors it raises."""
    return _TorchcodecReader(path, size) if decoder == "torchcodec" else _PyavReader(path, size)


class _PyavReader:
    """Seeks to the key frame and decodes from there; what comes right after the last frame needs no seeking."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        from av.video.reformatter import VideoReformatter

        self._held = ExitStack()
        self._path, self._size, self._to_rgb = path, size, VideoReformatter()
        with _undecodable():
            self._container, self._stream = self._held.enter_context(opened(path, size, 1))
        self._decoded: Iterator[VideoFrame] = iter(())
        self._start: int | None = None
        self._number, self._time = -2, -1

    def read(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        for time, number, start in frames.tolist():
            with _undecodable():
                frame = self._frame(time, number, start)
                check_size(self._path, frame.height, frame.width, self._size)
                pixels = rgb(self._to_rgb, frame)
            yield pixels

    def _frame(self, time: int, number: int, start: int) -> "VideoFrame":
        follows = number == self._number + 1 or (start == self._start and time > self._time)
        if not follows:
            self._seek(start)
        found = self._until(time)
        if found is None:  # a file whose key frames are not where it says
            self._seek(0)
            found = self._until(time)
        if found is None:
            self._start, self._number = None, -2
            raise UndecodableError("the frame is listed in the file and not among those that are decoded")
        self._start, self._number, self._time = start, number, time
        return found

    def _seek(self, start: int) -> None:
        self._container.seek(start, stream=self._stream)
        self._decoded = iter(self._container.decode(self._stream))

    def _until(self, time: int) -> "VideoFrame | None":
        """The frame of that time; None where the next ones are later or there are none."""
        for frame in self._decoded:
            if frame.pts is not None and frame.pts >= time:
                return frame if frame.pts == time else None
        return None

    def close(self) -> None:
        self._decoded = iter(())
        self._held.close()


class _TorchcodecReader:
    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        with _undecodable():
            self._decoder: VideoDecoder | None = open_torchcodec(path, size, 1)

    def read(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        assert self._decoder is not None, "open"
        for number in frames[:, 1].tolist():
            with _undecodable():
                frame = self._decoder.get_frame_at(number).data.numpy()
            yield frame

    def close(self) -> None:
        self._decoder = None


@contextmanager
def _undecodable() -> Iterator[None]:
    """A decoder's own errors as `UndecodableError`."""
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, IndexError, ValueError, RuntimeError) as error:
        if isinstance(error, UndecodableError):
            raise
        raise UndecodableError(printable(str(error).splitlines()[0] if str(error) else type(error).__name__)) from error
