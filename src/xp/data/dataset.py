# pyright: strict
"""The protocol of a dataset, which every data format implements, and `open_dataset`.

A format is one object that a package names in the entry-point group `xp.datasets`; `owns` finds the one for a folder or
file. LeRobot's (`xp.data.lerobot`) is the first. Nothing outside a format's own package knows its files.

Letters: N steps (rows) in all, E episodes, A action, S state dimensions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from xp.array_types import Floats, Ints, Numbers, Pixels
from xp.config.dataset_facts import DescribedFormat, ToldFormat, find_format, not_told, reading_section
from xp.config.hub_keys import local_path
from xp.data.missing_dataset import no_dataset
from xp.errors import UserError
from xp.hub.address import is_address
from xp.json_types import JSON

FramePieces = Iterator[tuple[Ints, Pixels]]
"""Row numbers [n] int64 and their frames [n, h, w, 3] uint8, until every row has been given once."""

OPTIONAL_COLUMNS = {"reward": np.float32, "done": np.bool_, "step": np.int64}
"""Columns [N] that a dataset may have and windows then hold, with their types.

`reward` is what followed the action of the row, `done` whether the attempt ended with it, `step` the number of the row
in its attempt (0 where one begins; attempts may be shorter than episodes, see `Episodes`).
"""


@dataclass(frozen=True, eq=False)
class Episodes:
    """The episodes of a dataset: rows `starts[e] .. starts[e] + lengths[e] - 1` belong to episode e.

    An episode is what windows never leave and splits never divide. A format whose windows go on over several attempts
    (a learning history) gives one for each history, and the column `step` says where an attempt begins.
    """

    starts: Ints
    lengths: Ints
    task_index: Ints
    """[E] int64: the task of each episode (of its first row)."""
    texts: tuple[str, ...]
    """Language instructions by task index."""

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The language instruction of each episode (of its first row)."""
        return tuple(self.texts[int(index)] for index in self.task_index)

    @property
    def num(self) -> int:
        """E, how many episodes there are."""
        return len(self.starts)

    def __len__(self) -> int:
        return len(self.starts)

    def rows(self, episodes: Ints | Sequence[int]) -> Ints:
        """All row numbers [n] int64 of the given episodes, in their order."""
        chosen = np.asarray(episodes, dtype=np.int64).reshape(-1)
        lengths = self.lengths[chosen]
        before = np.cumsum(lengths) - lengths
        return np.arange(int(lengths.sum())) + np.repeat(self.starts[chosen] - before, lengths)


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of episodes whose actions and states have widths of their own (robots, suites).

    The columns of the dataset are as wide as the widest group; what is beyond a group's own widths is 0.
    """

    names: tuple[str, ...]
    action_dims: tuple[int, ...]
    state_dims: tuple[int, ...]
    index: Ints
    """[E] int64: the group of each episode, a place in `names`."""
    parameter_groups: tuple[str, ...] = ()
    """Of each group, whose encoders and decoders a model with modules per group uses; several groups of equal widths
    may share them. Empty: each has its own, by its name."""
    reward_scales: tuple[float, ...] = ()
    """Of each group, what a model that reads rewards multiplies them by. Empty: 1."""


@runtime_checkable
class Dataset(Protocol):
    """A dataset opened for training, in its own units; all of its numbers are checked to be finite."""

    @property
    def root(self) -> Path:
        """The folder or file that it was opened from."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digits that name the content (numbers, frames, tasks, rate), wherever it lies."""
        ...

    @property
    def fps(self) -> float:
        """Steps per second."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """Language instructions by task index."""
        ...

    @property
    def cameras(self) -> Mapping[str, tuple[int, int, int]]:
        """Camera name to (height, width, 3) in pixels as stored; empty where there are no frames."""
        ...

    @property
    def episodes(self) -> Episodes:
        """Where episodes lie among the rows, and their tasks."""
        ...

    @property
    def action(self) -> Floats:
        """[N, A] float32."""
        ...

    @property
    def state(self) -> Floats:
        """[N, S] float32; S = 0 without a state."""
        ...

    @property
    def environment_state(self) -> Floats:
        """[N, D] float32: what the robot does not sense itself; D = 0 in most datasets."""
        ...

    @property
    def episode_index(self) -> Ints:
        """[N] int64, ascending."""
        ...

    @property
    def frame_index(self) -> Ints:
        """[N] int64: 0, 1, 2, ... in each episode."""
        ...

    @property
    def task_index(self) -> Ints:
        """[N] int64."""
        ...

    @property
    def columns(self) -> Mapping[str, Numbers]:
        """Those of `OPTIONAL_COLUMNS` that the dataset has, each [N]."""
        ...

    @property
    def groups(self) -> Groups | None:
        """Groups of dimensions; None where all episodes have the same."""
        ...

    @property
    def num_frames(self) -> int:
        """N."""
        ...

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    @property
    def state_dim(self) -> int:
        """S."""
        ...

    @property
    def environment_dim(self) -> int:
        """Dimensions of `environment_state`."""
        ...

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action dimensions; made up (`xp.data.dimension_names`) where nobody did."""
        ...

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state dimensions."""
        ...

    @property
    def environment_state_names(self) -> tuple[str, ...]:
        """Names of the dimensions of `environment_state`."""
        ...

    @property
    def decoder(self) -> str:
        """What frames were asked to be decoded with (`data.decoder`)."""
        ...

    def rows(self, episodes: Ints | Sequence[int]) -> Ints:
        """`Episodes.rows`: all row numbers [n] int64 of the given episodes, in their order."""
        ...

    def frame_decoders(self, camera: str) -> tuple[str, ...]:
        """Names of what a camera's frames may have been decoded with: pixels may differ between two, so caches do."""
        ...

    def choose_decoder(self, camera: str, log: Callable[[str], None] | None = None) -> str:
        """The one of `frame_decoders` to decode with on this machine; may import what is heavy."""
        ...

    def read_frames(
        self, camera: str, size: tuple[int, int], decoder: str, log: Callable[[str], None] | None = None
    ) -> FramePieces:
        """The frame of every row once, resized to `size` (height, width); decodes from the files each time.

        Raises:
            UserError: a frame is missing, damaged or of another size than the dataset says.
        """
        ...


@runtime_checkable
class FingerprintedCameras(Protocol):
    """What a `Dataset` may have beside: fingerprints of single cameras, some of whose files may not be here."""

    former_fingerprint: str
    """What `fingerprint` was in versions in which it named the frames, too; "" where that cannot be told."""

    def camera_fingerprint(self, camera: str) -> str:
        """Hex digits that name the content of a camera's frames; "" where the fingerprint of the rows does."""
        ...

    def require_frames(self, cameras: Iterable[str], episodes: Sequence[int] | None = None) -> None:
        """Refuse frames that are not here; without `episodes`, cameras of which nothing is.

        Raises:
            UserError: which camera and episode, and how to get them.
        """
        ...


def _with_cameras(dataset: object) -> Any:
    """The dataset as `FingerprintedCameras`, or None; by name, since one may stand for another (`__getattr__`)."""
    return dataset if hasattr(dataset, "camera_fingerprint") else None


def camera_fingerprint(dataset: object, camera: str) -> str:
    """What names the content of a camera's frames beside the dataset's fingerprint; "" where that does alone."""
    found = _with_cameras(dataset)
    return "" if found is None else found.camera_fingerprint(camera)


def require_frames(dataset: object, cameras: Iterable[str], episodes: Sequence[int] | None = None) -> None:
    """`FingerprintedCameras.require_frames` of a dataset that has it."""
    found = _with_cameras(dataset)
    if found is not None:
        found.require_frames(cameras, episodes)


def is_of(dataset: Dataset, fingerprint: object) -> bool:
    """Whether a fingerprint, of this or an earlier version, names this dataset."""
    if fingerprint == dataset.fingerprint:
        return True
    found = _with_cameras(dataset)
    return found is not None and bool(fingerprint) and fingerprint == found.former_fingerprint


@runtime_checkable
class DatasetFormat(DescribedFormat, Protocol):
    """A data format: what a package declares in the entry-point group `xp.datasets`."""

    def open(
        self,
        root: str | Path,
        *,
        decoder: str = "auto",
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
    ) -> Dataset:
        """Open what the format owns, checking all of it but the pixels; arguments as of `open_dataset`.

        Raises:
            UserError: missing, of another version, truncated, contradictory, or with NaN or infinity in its numbers.
        """
        ...


@runtime_checkable
class ToldDatasetFormat(ToldFormat, Protocol):
    """A `DatasetFormat` whose files do not say all; its datasets have `reading`, as they were told."""

    def open_told(
        self,
        root: str | Path,
        reading: Mapping[str, JSON],
        key: str,
        *,
        decoder: str = "auto",
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
    ) -> Dataset:
        """As `DatasetFormat.open`; `reading` is the section `key`, empty where none is given.

        Raises:
            UserError: as there; or what is told is incomplete or does not fit.
        """
        ...


def reading_of(dataset: object) -> Mapping[str, JSON]:
    """The section `data.read` that a dataset was opened with; empty where its files say all."""
    return getattr(dataset, "reading", {})


def open_dataset(
    root: str | Path,
    *,
    decoder: str = "auto",
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    read: Mapping[str, JSON] | None = None,
    read_key: str = "data.read",
) -> Dataset:
    """Open a dataset of any installed format, checking all of it but the pixels.

    Args:
        root: Its folder or file, such as a LeRobotDataset v3.0 folder (meta/, data/ and, in video mode, videos/); or
            the id of one on the hub, `hf://ORG/NAME@REVISION`, which is downloaded.
        decoder: What decodes videos: `torchcodec`, `pyav`, or `auto` (PyAV).
        cache_dir: Where a format may keep the numbers of a large dataset, decoded once, to be mapped by all processes;
            None: every process decodes them into memory of its own.
        cache_gb: Bound on that folder in gigabytes (10^9 bytes).
        read: What the files of some formats do not say, such as the rate of RLDS: `{"fps": 5}` (docs/data.md).
        read_key: Where that stands, for messages.

    Raises:
        UserError: no installed format knows it; or missing, of another version, truncated, contradictory, or with NaN
            or infinity in its numbers.
    """
    root = Path(local_path(str(root), "root") if is_address(str(root)) else root).expanduser()
    found = find_format(root)
    if found is None:
        raise no_dataset(root)
    if not isinstance(found, DatasetFormat):
        raise UserError(
            f"{root} is of the data format {found.name}, whose package has no way to open it (xp.data.dataset."
            "DatasetFormat.open). Update that package."
        )
    told = reading_section(read, read_key)
    if isinstance(found, ToldDatasetFormat):
        return found.open_told(root, told, read_key, decoder=decoder, cache_dir=cache_dir, cache_gb=cache_gb)
    if told:
        raise not_told(root, found, read_key)
    return found.open(root, decoder=decoder, cache_dir=cache_dir, cache_gb=cache_gb)


def optional_columns(dataset: Dataset) -> dict[str, Numbers]:
    """The dataset's optional columns with the types that windows promise, in the order of `OPTIONAL_COLUMNS`."""
    columns = dataset.columns
    unknown = sorted(set(columns) - set(OPTIONAL_COLUMNS))
    assert not unknown, f"columns {unknown} are no part of a batch: {list(OPTIONAL_COLUMNS)}"
    return {name: np.asarray(columns[name], kind) for name, kind in OPTIONAL_COLUMNS.items() if name in columns}
