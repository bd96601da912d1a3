# pyright: strict
"""Weights that are plain bytes in files: element ranges read and written by position, without memory mapping."""

import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xp.checkpoints.arrays import AnyArray, CorruptFileError, Leaf, aligned_empty

LOADERS, PIECE = 4, 1 << 24
"""Whole arrays that are loaded at a time, and the most bytes that one read asks for."""


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

    def alignment(self, name: str) -> int:
        """Bytes can be read from anywhere."""
        return 1

    def requires_sequential_read(self, name: str) -> bool:
        """Any order will do."""
        return False

    def read(self, name: str, start: int, stop: int) -> AnyArray:
        """See `Reader.read`."""
        extent = self._extents[name]
        size = extent.leaf.dtype.itemsize
        view = memoryview(self._buffer((stop - start) * size))
        self._fill(extent, start * size, view)
        return np.frombuffer(view, dtype=extent.leaf.dtype)

    def load(self, names: Iterable[str] | None = None) -> dict[str, AnyArray]:
        """Whole arrays in their shapes, each in aligned memory of its own, so that memory is the arrays' own, once.

        Args:
            names: of the arrays, by default all.

        Raises:
            CorruptFileError: a file became shorter since it was opened.
        """
        wanted = list(self.leaves if names is None else names)
        with ThreadPoolExecutor(LOADERS, "load") as pool:
            return dict(zip(wanted, pool.map(self._whole, wanted), strict=True))

    def _whole(self, name: str) -> AnyArray:
        extent = self._extents[name]
        array = aligned_empty(extent.leaf.shape, extent.leaf.dtype)
        if array.size:
            self._fill(extent, 0, array.reshape(-1).view(np.uint8).data)
        return array

    def _fill(self, extent: Extent, start: int, view: memoryview) -> None:
        """Fill `view` with the leaf's bytes from `start` on."""
        done, position = 0, extent.offset + start
        while done < len(view):
            got = os.preadv(self._descriptors[extent.file], [view[done : done + PIECE]], position + done)
            if not got:
                raise CorruptFileError(f"{self.files[extent.file].name} ends inside {extent.leaf.name}")
            done += got

    def _buffer(self, size: int) -> AnyArray:
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

    def write(self, name: str, start: int, data: AnyArray) -> None:
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
