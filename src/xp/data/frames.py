"""Where a task's frames come from: the frame cache, a stream, or whichever there is room for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from xp.data.cache import Progress, open_frames
from xp.data.cache_store import NoRoomError
from xp.data.dataset import Dataset
from xp.data.frame_source import CameraFrames, StreamedDataset
from xp.data.stream.frames import open_stream

Mode = Literal["auto", "cache", "stream"]


def frames_of(
    dataset: Dataset,
    sizes: Mapping[str, tuple[int, int]],
    *,
    mode: Mode,
    cache_dir: str | Path,
    cache_gb: float,
    workers: int,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> CameraFrames:
    """The frames of the cameras in `sizes`: the same bytes in every mode.

    Args:
        dataset: The dataset.
        sizes: Camera name to (height, width) in pixels; frames of another size are resized (Lanczos, antialiased).
        mode: `cache` decodes all of them once, to disk; `stream` decodes what a batch needs, ahead of it; `auto` takes
            the cache where it has room, and says so where it has none.
        cache_dir: See `xp.data.open_frames`.
        cache_gb: See there.
        workers: How many processes decode a stream.
        progress: See there.
        log: See there.
        check: See there.

    Raises:
        UserError: See there; and a stream of a dataset whose format has no access to single frames.
    """
    where = {"cache_dir": Path(cache_dir), "cache_gb": cache_gb, "log": log, "check": check}
    if mode != "stream":
        try:
            return open_frames(dataset, sizes, **where, progress=progress)
        except NoRoomError as error:
            if mode == "cache" or not isinstance(dataset, StreamedDataset):
                raise
            if log is not None:
                log(f"{error.reason} So frames are streamed: decoded when a batch needs them, by {workers} processes.")
    return open_stream(dataset, sizes, workers=workers, **where)
