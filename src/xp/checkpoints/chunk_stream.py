"""The chunks of a zarr array as one stream of values, decoded piece by piece as they are read.

Orbax stores a leaf as one chunk. Decoded as a whole it costs memory for all of it, several times over, and most of the
time goes into first touches of that memory. A zstd frame decodes from its front in windows, so values that are read in
order cost one window of compressed bytes, whatever the leaf's size. Chunks that are not compressed are read from
anywhere, in windows as well.
"""

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xp.checkpoints.arrays import CorruptFileError

if TYPE_CHECKING:
    import pyarrow
    import tensorstore

WINDOW = 1 << 20
"""Compressed bytes read at once."""
PLAIN_WINDOW, AHEAD = 4 << 20, 2
"""Bytes of a chunk that is not compressed read at once, and how many more such reads are under way."""


class Values(io.RawIOBase):
    """One value of a key-value store as a file of compressed bytes, read from front to end."""

    def __init__(self, store: "tensorstore.KvStore", key: str) -> None:
        self._store, self._key, self._at, self._is_at_end = store, key, 0, False

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `WINDOW`; none at the end. A store does not tell how long a value is: it refuses a
        range that passes the end, and then the rest, which is shorter than the range, is read by its beginning alone.
        """
        if self._is_at_end:
            return b""
        wanted = min(size, WINDOW) if size >= 0 else WINDOW
        try:
            found = self._store.read(self._key, byte_range=slice(self._at, self._at + wanted)).result()
        except ValueError:
            self._is_at_end = True
            found = self._store.read(self._key, byte_range=slice(self._at, None)).result()
        if found.state != "value":
            raise CorruptFileError(f"there is no chunk {self._key}")
        data = found.value
        self._at += len(data)
        return data


class ChunkStream:
    """The values of an array in C order whose chunks are zstd frames that follow one another along its first axis."""

    def __init__(self, store: "tensorstore.KvStore", keys: Sequence[str], chunk: int) -> None:
        """`chunk`: bytes of each chunk when decoded (the last one may be filled up)."""
        self._store, self._keys, self._chunk = store, list(keys), chunk
        self.at = 0
        """Bytes that were read."""
        self._stream: pyarrow.NativeFile | None = None

    def skip(self, count: int) -> None:
        """Decode and forget."""
        unwanted = np.empty(min(count, WINDOW), np.uint8)
        while count:
            self.read_into(unwanted[: min(count, WINDOW)])
            count -= min(count, WINDOW)

    def read_into(self, room: np.ndarray) -> None:
        """Fill `room` [n] uint8 with the next bytes.

        Raises:
            CorruptFileError: a chunk is missing, cut short or no zstd frame.
        """
        view = memoryview(room)
        while len(view):
            inside = self.at % self._chunk
            if inside == 0:
                self._stream = self._opened(self._keys[self.at // self._chunk])
            assert self._stream is not None
            part = view[: self._chunk - inside]
            try:
                count = self._stream.readinto(part)
            except (OSError, ValueError) as error:
                raise CorruptFileError(f"a chunk does not decode ({str(error).splitlines()[0][:120]})") from error
            if not count:
                raise CorruptFileError("a chunk ends too early")
            self.at += count
            view = view[count:]

    def _opened(self, key: str) -> "pyarrow.NativeFile":
        import pyarrow

        source = pyarrow.PythonFile(Values(self._store, key), mode="r")
        return pyarrow.CompressedInputStream(pyarrow.BufferedInputStream(source, WINDOW), "zstd")


class _Window(NamedTuple):
    """Bytes `first` to `last` of a chunk, and where they go in what was asked for."""

    number: int
    first: int
    last: int
    to: int


class PlainChunks:
    """The values of an array in C order whose chunks follow one another and are not compressed."""

    def __init__(self, store: "tensorstore.KvStore", keys: Sequence[str], chunk: int) -> None:
        """`chunk`: bytes of each chunk (the last one may be filled up)."""
        self._store, self._keys, self._chunk = store, list(keys), chunk

    def read(self, start: int, stop: int, room: Callable[[int], np.ndarray]) -> np.ndarray:
        """Bytes [start, stop) as uint8; `room` gives an array of so many where they do not lie in one window.

        Raises:
            CorruptFileError: a chunk is missing or of another length.
        """
        under_way: deque[tuple[_Window, tensorstore.Future[tensorstore.KvStore.ReadResult]]] = deque()
        windows = list(self._windows(start, stop))
        if len(windows) == 1:
            return self._values(windows[0], self._ask(windows[0]))
        found = room(stop - start)
        for window in windows:
            under_way.append((window, self._ask(window)))
            if len(under_way) > AHEAD:
                self._put(found, *under_way.popleft())
        while under_way:
            self._put(found, *under_way.popleft())
        return found

    def _windows(self, start: int, stop: int) -> Iterator[_Window]:
        at = start
        while at < stop:
            number, first = divmod(at, self._chunk)
            count = min(self._chunk - first, stop - at, PLAIN_WINDOW)
            yield _Window(number, first, first + count, at - start)
            at += count

    def _ask(self, window: _Window) -> "tensorstore.Future[tensorstore.KvStore.ReadResult]":
        # Where it ends with the chunk only its beginning is said: so a chunk that is too long is noticed.
        stop = None if window.last == self._chunk else window.last
        return self._store.read(self._keys[window.number], byte_range=slice(window.first, stop))

    def _put(
        self, room: np.ndarray, window: _Window, asked: "tensorstore.Future[tensorstore.KvStore.ReadResult]"
    ) -> None:
        room[window.to : window.to + window.last - window.first] = self._values(window, asked)

    def _values(self, window: _Window, asked: "tensorstore.Future[tensorstore.KvStore.ReadResult]") -> np.ndarray:
        try:
            found = asked.result()
        except (OSError, ValueError) as error:
            raise CorruptFileError(f"a chunk cannot be read ({str(error).splitlines()[0][:200]})") from error
        if found.state != "value":
            raise CorruptFileError(f"there is no chunk {self._keys[window.number]}")
        data, count = found.value, window.last - window.first
        if len(data) != count:
            raise CorruptFileError(f"a chunk has {len(data):,} bytes where {count:,} should be")
        return np.frombuffer(data, np.uint8)
