"""The frame cache: every frame decoded and resized once, then mapped into memory by all runs that need it."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from xp.data.cache_store import CacheStore, NoRoomError, Wanted
from xp.data.dataset import Dataset, camera_fingerprint, require_frames
from xp.errors import UserError, did_you_mean, join_names

_FORMAT = 1
"""Counted up when the pixels of an entry would change (other resizing, other decoding)."""


@runtime_checkable
class ProgressBar(Protocol):
    """How far a piece of work has come."""

    def advance(self, steps: int = 1, /) -> None:
        """So many steps more are done."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Shows how far a piece of work has come, as `Run.progress` does."""

    def __call__(self, total: int, description: str, *, unit: str) -> AbstractContextManager[ProgressBar]:
        """A bar of `total` steps for the length of a `with` block."""
        ...


def open_frames(
    dataset: Dataset,
    sizes: Mapping[str, tuple[int, int]],
    *,
    cache_dir: str | Path,
    cache_gb: float,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, np.memmap]:
    """Map all frames of the cameras in `sizes`, decoding those that no process has decoded yet.

    Args:
        dataset: The dataset.
        sizes: Camera name to (height, width) in pixels; frames of another size are resized (Lanczos, antialiased).
        cache_dir: The cache folder, shared by all runs on the machine.
        cache_gb: Bound on the folder in gigabytes (10^9 bytes); entries not used for longest are removed first, those
            in use by a living process never.
        progress: Shows the building; see `Progress`.
        log: Takes single lines, such as that another process is building.
        check: Called now and then while waiting and decoding; what it raises ends either, and leaves nothing behind.

    Returns:
        Camera name to [N, h, w, 3] uint8, read-only; frame n is row n of the dataset. Keep the arrays alive while
        using views of them: they protect their entry from removal.

    Raises:
        UserError: unknown camera, damaged file, no room within `cache_gb` or on the disk, folder not writable.
    """
    check_cameras(dataset, sizes)
    store = CacheStore(Path(cache_dir), cache_gb, log, check)
    _check_budget(dataset, sizes, cache_gb)
    wanted = [_wanted(dataset, camera, sizes[camera], progress, log, check) for camera in sizes]
    store.check_disk(wanted)
    return dict(zip(sizes, store.open_all(wanted), strict=True))


def check_cameras(dataset: Dataset, cameras: Collection[str]) -> None:
    """Refuse cameras that the dataset does not have, or whose videos were not downloaded."""
    for camera in cameras:
        if camera not in dataset.cameras:
            raise UserError(
                f"The dataset {dataset.root} has no camera '{camera}'; it has {join_names(dataset.cameras)}"
                f"{did_you_mean(camera, dataset.cameras)}. Choose one of them in the model's cameras."
            )
    require_frames(dataset, cameras)


def _check_budget(dataset: Dataset, sizes: Mapping[str, tuple[int, int]], cache_gb: float) -> None:
    """Refuse at once what can never fit, before hours of decoding."""
    need = sum(dataset.num_frames * height * width * 3 for height, width in sizes.values()) / 1e9
    if need > cache_gb:
        shapes = ", ".join(f"{camera} {height}x{width}" for camera, (height, width) in sizes.items())
        raise NoRoomError(
            f"The frames of {dataset.root} ({dataset.num_frames} frames; {shapes}) take {need:.3g} GB and "
            f"data.cache_gb={cache_gb:g} allows less.",
            f"Type data.cache_gb={need * 1.01 + 0.1:.1f} (or more), or data.frames=stream, or use a model with "
            "smaller images or fewer cameras.",
        )


def _wanted(
    dataset: Dataset,
    camera: str,
    size: tuple[int, int],
    progress: Progress | None,
    log: Callable[[str], None] | None,
    check: Callable[[], None],
) -> Wanted:
    size = (int(size[0]), int(size[1]))

    def plan() -> tuple[str, Callable[[np.ndarray], None]]:
        # Chosen by the builder alone: that may take seconds and import torch.
        decoder = dataset.choose_decoder(camera, log)
        return entry_name(dataset, camera, size, decoder), lambda array: build(array, decoder)

    def build(array: np.ndarray, decoder: str) -> None:
        description = f"decoding {camera} at {size[0]}x{size[1]}"
        bar = progress(len(array), description, unit="frame") if progress else nullcontext()
        with bar as shown, closing(_Rows(array)) as into:
            for rows, frames in dataset.read_frames(camera, size, decoder, log):
                into.write(rows, frames)
                if shown is not None:
                    shown.advance(len(rows))
                check()

    names = tuple(entry_name(dataset, camera, size, decoder) for decoder in dataset.frame_decoders(camera))
    return Wanted(entry_name(dataset, camera, size, "any"), names, (dataset.num_frames, *size, 3), plan)


class _Rows:
    """Writes rows of a mapped array to its file.

    To write through the mapping costs several times as much: the system then hands out page by page. Both are one file
    to whoever reads it.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        path = getattr(array, "filename", None)
        self._file = None if path is None else os.open(path, os.O_WRONLY)

    def write(self, rows: np.ndarray, frames: np.ndarray) -> None:
        """Put frames [n, h, w, 3] at rows [n]."""
        assert frames.shape[1:] == self._array.shape[1:] and frames.dtype == np.uint8, (frames.shape, self._array.shape)
        if self._file is None:
            self._array[rows] = frames
            return
        begin, size = 0, self._array[0].nbytes
        for end in [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]:
            self._write(np.ascontiguousarray(frames[begin:end]), self._array.offset + int(rows[begin]) * size)  # type: ignore[attr-defined]
            begin = end

    def _write(self, frames: np.ndarray, at: int) -> None:
        left = memoryview(frames).cast("B")
        while left:
            written = os.pwrite(cast("int", self._file), left, at)
            left, at = left[written:], at + written

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)


def entry_name(dataset: Dataset, camera: str, size: tuple[int, int], decoder: str) -> str:
    """The name of a cache entry: readable, and different whenever its pixels may differ."""
    pixels = camera_fingerprint(dataset, camera)
    content = [dataset.fingerprint, camera, *([pixels] if pixels else [])]
    key = "\n".join([str(_FORMAT), *content, str(size[0]), str(size[1]), decoder])
    readable = re.sub(r"[^A-Za-z0-9_-]", "-", f"{dataset.root.resolve().name[:40]}_{camera}_{size[0]}x{size[1]}")
    return f"{readable}_{hashlib.sha256(key.encode()).hexdigest()[:20]}"
