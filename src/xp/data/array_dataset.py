"""A dataset whose numbers are in memory: what a data format gives that reads them from files of its own.

Letters: N steps (rows) in all, E episodes, A action, S state dimensions.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xp.data.dataset import Episodes, FramePieces, Groups
from xp.data.dimension_names import made_up_names
from xp.data.finite import check_finite
from xp.errors import UserError

if TYPE_CHECKING:
    from builtins import property as worked_out  # to a type checker the protocol's properties
else:
    worked_out = cached_property

_MEND = "leave those episodes out, or record them again"


@dataclass(frozen=True, eq=False, kw_only=True)
class ArrayDataset:
    """`xp.data.dataset.Dataset` over arrays; all that follows from them is worked out here.

    Raises:
        UserError: arrays of different numbers of rows, or NaN or infinity in them.
    """

    root: Path
    fps: float
    tasks: Sequence[str]
    """Language instructions by task index."""
    lengths: np.ndarray
    """[E] int64: rows of each episode; the rows of an episode follow one another."""
    episode_tasks: np.ndarray
    """[E] int64: the task of each episode."""
    action: np.ndarray
    """[N, A]."""
    state: np.ndarray
    """[N, S]; S = 0 without a state."""
    files: Sequence[Path] = ()
    """All files that the dataset was read from, inside `root` (or `root` itself): the fingerprint is theirs."""
    cameras: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """{camera: (height, width, 3)} in pixels as stored."""
    frames: Callable[[str, int], np.ndarray] | None = None
    """`frames(camera, episode)` reads [n, h, w, 3] uint8, the pictures of all rows of an episode."""
    environment_state: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """[N, D]; empty without one."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Those of `xp.data.dataset.OPTIONAL_COLUMNS` that there are, each [N]."""
    groups: Groups | None = None
    action_names: tuple[str, ...] = ()
    state_names: tuple[str, ...] = ()
    environment_state_names: tuple[str, ...] = ()
    decoder: str = "auto"

    def __post_init__(self) -> None:
        rows = int(np.sum(self.lengths))
        if not self.environment_state.size:
            object.__setattr__(self, "environment_state", np.zeros((rows, 0), np.float32))
        for name in ("action", "state", "environment_state"):
            values = np.ascontiguousarray(getattr(self, name), np.float32)
            names = getattr(self, f"{name}_names") or made_up_names(name, values.shape[-1])
            if values.ndim != 2 or len(values) != rows or len(names) != values.shape[1]:
                raise UserError(
                    f"The dataset {self.root} contradicts itself: its {name} has the shape {values.shape} with "
                    f"{len(names)} names, its episodes have {rows} rows. Record it again, or copy it again."
                )
            object.__setattr__(self, name, values)
            object.__setattr__(self, f"{name}_names", tuple(names))
            check_finite(self.root, name, values, tuple(names), self.episode_index, self.frame_index, _MEND)

    @worked_out
    def episodes(self) -> Episodes:
        """Where episodes lie among the rows."""
        lengths = np.asarray(self.lengths, np.int64)
        tasks = np.asarray(self.episode_tasks, np.int64)
        return Episodes(np.cumsum(lengths) - lengths, lengths, tasks, tuple(self.tasks))

    @worked_out
    def episode_index(self) -> np.ndarray:
        """[N] int64."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @worked_out
    def frame_index(self) -> np.ndarray:
        """[N] int64."""
        return np.arange(len(self.episode_index)) - self.episodes.starts[self.episode_index]

    @worked_out
    def task_index(self) -> np.ndarray:
        """[N] int64."""
        return self.episodes.task_index[self.episode_index]

    @worked_out
    def fingerprint(self) -> str:
        """Of the bytes of `files` and their names inside the dataset."""
        digest = hashlib.sha256()
        for file in sorted(self.files):
            digest.update(file.relative_to(self.root).as_posix().encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.action)

    @property
    def action_dim(self) -> int:
        """A."""
        return self.action.shape[1]

    @property
    def state_dim(self) -> int:
        """S."""
        return self.state.shape[1]

    @property
    def environment_dim(self) -> int:
        """Dimensions of `environment_state`."""
        return self.environment_state.shape[1]

    def rows(self, episodes: np.ndarray | Sequence[int]) -> np.ndarray:
        """See `Dataset.rows`."""
        return self.episodes.rows(episodes)

    def frame_decoders(self, camera: str) -> tuple[str, ...]:
        """One: pictures are pixels already."""
        return ("stored",)

    def choose_decoder(self, camera: str, log: Callable[[str], None] | None = None) -> str:
        """The only one."""
        return "stored"

    def read_frames(
        self, camera: str, size: tuple[int, int], decoder: str, log: Callable[[str], None] | None = None
    ) -> FramePieces:
        """See `Dataset.read_frames`; an episode at a time."""
        from xp.pictures import resize

        assert self.frames is not None, "a dataset with cameras says how their frames are read"
        for episode, (start, length) in enumerate(zip(self.episodes.starts, self.episodes.lengths, strict=True)):
            pictures = self.frames(camera, episode)
            wanted = (int(length), *self.cameras[camera])
            if pictures.dtype != np.uint8 or pictures.shape != wanted:
                raise UserError(
                    f"The frames of '{camera}' in episode {episode} of {self.root} are {pictures.dtype} of shape "
                    f"{list(pictures.shape)}: expected uint8 {list(wanted)}. Record the episode again, or copy it."
                )
            yield np.arange(start, start + length), resize(pictures, *size)
