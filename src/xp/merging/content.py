"""Digests of a checkpoint's weights that do not depend on file format, shards or chunks."""

import hashlib
from collections.abc import Mapping

import numpy as np
import xxhash

from xp.checkpoints.arrays import Leaf

SEGMENT = 1 << 23
"""Elements a digest is taken over: part of the definition."""


class LeafDigest:
    """XXH3-128 of each segment of consecutive elements, fed in order from a segment's start."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self._room = SEGMENT
        self._done: list[bytes] = []

    def update(self, values: np.ndarray) -> None:
        """The next elements [n]."""
        while len(values) >= self._room:
            self._hash.update(_bytes(values[: self._room]))
            values = values[self._room :]
            self._done.append(self._hash.digest())
            self._hash, self._room = xxhash.xxh3_128(), SEGMENT
        if len(values):
            self._hash.update(_bytes(values))
            self._room -= len(values)

    def segments(self) -> list[bytes]:
        """Digests in order; the last may be of a shorter segment."""
        return [*self._done, self._hash.digest()] if self._room < SEGMENT else self._done


class Content:
    """Digests of a whole checkpoint, filled in any order by several threads."""

    def __init__(self) -> None:
        self._segments: dict[str, dict[int, bytes]] = {}

    def add(self, name: str, start: int, digest: LeafDigest) -> None:
        """Digests of the elements of a leaf from `start` (a segment's start) on."""
        first = start // SEGMENT
        found = {first + i: segment for i, segment in enumerate(digest.segments())}
        self._segments.setdefault(name, {}).update(found)

    def differing(self, other: "Content") -> list[str]:
        """Leaves whose bytes are not the same."""
        names = sorted(self._segments.keys() | other._segments.keys())
        return [name for name in names if self._segments.get(name) != other._segments.get(name)]

    def hexdigest(self, leaves: Mapping[str, Leaf]) -> str:
        """SHA-256 over name, dtype, shape and segment digests of each leaf, names sorted."""
        total = hashlib.sha256()
        for name in sorted(self._segments):
            leaf = leaves[name]
            total.update(f"{name} {leaf.dtype.name} {list(leaf.shape)}\n".encode())
            for _, segment in sorted(self._segments[name].items()):
                total.update(segment)
        return total.hexdigest()


def _bytes(values: np.ndarray) -> memoryview:
    return memoryview(values.view(np.uint8))
