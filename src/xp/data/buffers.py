"""Reuses the memory of arrays that nobody refers to any more.

Fresh memory is not free: the kernel hands it out in pages that it clears first. For a batch of 2x480x640 images that
costs as much as copying the pixels does (benchmarks/loader.py).
"""

import sys
import threading

import numpy as np


class Buffers:
    """Hands out uint8 arrays, each to one holder at a time.

    An array is handed out again only when the pool's own reference is the last one. Whoever uses its memory holds a
    reference: views and memoryviews do by `base`, torch and jax do for as long as they share it.

    Args:
        keep: How many arrays are kept for later at most.
    """

    def __init__(self, keep: int = 4) -> None:
        self._keep = keep
        self._arrays: list[np.ndarray] = []
        self._lock = threading.Lock()
        self._unused = self._count_unused()

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """An uninitialised, contiguous array of `shape` that nobody else has."""
        with self._lock:
            for i in range(len(self._arrays)):
                if self._arrays[i].shape == shape and sys.getrefcount(self._arrays[i]) == self._unused:
                    return self._arrays[i]
            self._arrays = [*self._arrays[-(self._keep - 1) :], np.empty(shape, np.uint8)]
            return self._arrays[-1]

    @staticmethod
    def _count_unused() -> int:
        """What the interpreter counts for an array that only a list refers to, asked in the same way as above."""
        arrays = [np.empty(0, np.uint8)]
        return sys.getrefcount(arrays[0])
