"""A dataset in RLDS as a `xp.data.dataset.Dataset`: numbers in memory or mapped, pictures where they are."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xp.data.array_dataset import ArrayDataset
from xp.data.dataset import FramePieces
from xp.data.frame_source import FrameLocator, OpenFiles
from xp.data.rlds.content import Content
from xp.data.rlds.frames import PictureLocator, PicturePiece
from xp.json_types import JSON

_DECODER = "picture"
_THREADS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class RldsDataset(ArrayDataset):
    """See `xp.data.rlds.reader.open_folder`."""

    content: Content
    shards: tuple[Path, ...]
    """The files, by `Content.file`."""
    reading: Mapping[str, JSON] = field(default_factory=dict)
    """The section `data.read` that it was opened with."""

    @property
    def fingerprint(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`Content.digest`: all bytes of the records count, by their checksums."""
        return self.content.digest

    def frame_decoders(self, camera: str) -> tuple[str, ...]:
        """One, for PNG and JPEG."""
        return (_DECODER,)

    def choose_decoder(self, camera: str, log: Callable[[str], None] | None = None) -> str:
        """The only one."""
        return _DECODER

    def read_frames(
        self, camera: str, size: tuple[int, int], decoder: str, log: Callable[[str], None] | None = None
    ) -> FramePieces:
        """See `xp.data.dataset.Dataset`; pieces of about 8 MB, some decoded at once."""
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from _in_order(pool, self._locator(camera, size).all_pieces())

    def frame_locator(
        self,
        camera: str,
        size: tuple[int, int],
        decoder: str,
        *,
        cache_dir: Path,
        cache_gb: float,
        log: Callable[[str], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> FrameLocator:
        """See `xp.data.frame_source.StreamedDataset`; the places of pictures are known already."""
        return self._locator(camera, size)

    def _locator(self, camera: str, size: tuple[int, int]) -> PictureLocator:
        number = list(self.cameras).index(camera)
        return PictureLocator(self.content, self.shards, camera, number, self.cameras[camera][:2], size)


def _in_order(pool: ThreadPoolExecutor, given: Iterator[tuple[np.ndarray, PicturePiece]]) -> FramePieces:
    """Each piece with its frames, the next ones read meanwhile."""
    waiting = []
    try:
        for rows, piece in given:
            waiting.append((rows, pool.submit(_frames, piece)))
            if len(waiting) == _THREADS:
                rows, reading = waiting.pop(0)
                yield rows, reading.result()
        while waiting:
            rows, reading = waiting.pop(0)
            yield rows, reading.result()
    finally:
        for _, reading in waiting:
            reading.cancel()


def _frames(piece: PicturePiece) -> np.ndarray:
    files = OpenFiles()
    try:
        return np.stack(list(piece.read(files)))
    finally:
        files.forget(piece.path)
