"""The chunks of a zarr array as one stream of values, decoded piece by piece as they are read.

Orbax stores a leaf as one chunk. Decoded as a whole it costs memory for all of it, several times over, and most of the
time goes into first touches of that memory. A zstd frame decodes from its front in windows, so values that are read in
order cost one window of compressed bytes, whatever the leaf's size.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xp.checkpoints.arrays import CorruptFileError

if TYPE_CHECKING:
    import pyarrow
    import tensorstore

WINDOW = 1 << 20
"""Compressed bytes read at once."""


class Values(io.RawIOBase):
    """One value of a key-value store as a file of compressed bytes, read from front to end."""

    def __init__(self, store: "tensorstore.KvStore", key: str) -> None:
        self._store, self._key, self._at, self._window = store, key, 0, WINDOW

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `WINDOW`; none at the end. A store does not tell how long a value is: it refuses a
        range that passes the end, and a shorter one is tried.
        """
        while self._window:
            wanted = min(size, self._window) if size >= 0 else self._window
            try:
                found = self._store.read(self._key, byte_range=slice(self._at, self._at + wanted)).result()
            except ValueError:
                self._window = wanted // 2
                continue
            if found.state != "value":
                raise CorruptFileError(f"there is no chunk {self._key}")
            self._at += len(found.value)
            return found.value
        return b""


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
