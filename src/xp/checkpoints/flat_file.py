"""Weights that lie as plain bytes in files: positioned reads and writes of element ranges, no memory mapping."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xp.checkpoints.arrays import CorruptFileError, Leaf


@dataclass(frozen=True)
class Extent:
    """Where a leaf's data lies: `offset` bytes into `file`, an index into the list of files."""

    leaf: Leaf
    file: int
    offset: int


class FlatReader:
    """Reads ranges with pread into one buffer a thread, so memory is a buffer whatever the checkpoint's size."""

    def __init__(
        self, files: tuple[Path, ...], extents: Mapping[str, Extent], ties: Mapping[str, str] | None = None
    ) -> None:
        """Open the files and check that each holds the bytes that its header promises.

        Raises:
            CorruptFileError: a file is shorter than its header says.
        """
        self.files, self.ties = files, dict(ties or {})
        self.leaves = {name: extent.leaf for name, extent in extents.items()}
        self._extents = dict(extents)
        self._descriptors = [os.open(file, os.O_RDONLY) for file in files]
        self._local = threading.local()
        for extent in extents.values():
            missing = extent.offset + extent.leaf.nbytes - os.fstat(self._descriptors[extent.file]).st_size
            if missing > 0:
                raise CorruptFileError(
                    f"{files[extent.file].name} ends {missing:,} bytes before the end of {extent.leaf.name}"
                )

    def file_of(self, name: str) -> Path:
        """The file that holds a leaf."""
        return self.files[self._extents[name].file]

    def grain(self, name: str) -> int:
        """Bytes can be read from anywhere."""
        return 1

    def in_order(self, name: str) -> bool:
        """Any order will do."""
        return False

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """See `Reader.read`."""
        extent = self._extents[name]
        size = extent.leaf.dtype.itemsize
        view = memoryview(self._buffer((stop - start) * size))
        done, position = 0, extent.offset + start * size
        while done < len(view):
            got = os.preadv(self._descriptors[extent.file], [view[done:]], position + done)
            if not got:
                raise CorruptFileError(f"{self.files[extent.file].name} ends inside {name}")
            done += got
        return np.frombuffer(view, dtype=extent.leaf.dtype)

    def _buffer(self, size: int) -> np.ndarray:
        held = getattr(self._local, "buffer", None)
        if held is None or held.size < size:
            held = self._local.buffer = np.empty(size, np.uint8)
        return held[:size]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_descriptors", ()):
            os.close(descriptor)


class FlatWriter:
    """Writes ranges with pwrite into files whose headers are there and whose sizes are set."""

    def __init__(self, files: tuple[Path, ...], extents: Mapping[str, Extent]) -> None:
        """`files` exist, with everything but the data of `extents` in them."""
        self._extents = dict(extents)
        self._descriptors = [os.open(file, os.O_WRONLY) for file in files]

    def write(self, name: str, start: int, data: np.ndarray) -> None:
        """See `Writer.write`."""
        extent = self._extents[name]
        view = memoryview(np.ascontiguousarray(data).view(np.uint8))
        position = extent.offset + start * extent.leaf.dtype.itemsize
        while view:
            written = os.pwrite(self._descriptors[extent.file], view, position)
            view, position = view[written:], position + written

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
