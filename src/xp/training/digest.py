"""The digest of named arrays, by which a resumed run checks that its frozen weights are the same."""

import hashlib
from collections.abc import Mapping

import numpy as np

from xp.checkpoints.arrays import Array
from xp.checkpoints.safetensors import raw_bytes


def digest_of(arrays: Mapping[str, Array]) -> str:
    """SHA-256 over names, types, shapes and values, independent of order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(raw_bytes(array))
    return digest.hexdigest()
