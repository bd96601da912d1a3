"""A dataset of a mixture at the mixture's rate, as a dataset of its own: what its policy is measured on."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xp.config.mixture import MemberOptions
from xp.data import dataset as datasets
from xp.data.array_dataset import ArrayDataset
from xp.data.dataset import Dataset, FramePieces
from xp.data.mixture.rates import mixed_actions, stride_of

if TYPE_CHECKING:
    from builtins import property as worked_out  # to a type checker the protocol's properties
else:
    from functools import cached_property as worked_out


def resampled(member: MemberOptions, dataset: Dataset, fps: float) -> Dataset:
    """Every n-th row of each episode, from its first, with the actions that a step of the mixture has there.

    A training takes windows from every row, each n rows apart inside; these are the windows that begin at the first.

    Args:
        member: how the mixture takes the dataset.
        dataset: the dataset at its own rate.
        fps: steps per second of the mixture.

    Returns:
        The dataset itself where its rate is the mixture's.

    Raises:
        UserError: as `stride_of`.
    """
    stride = stride_of(member, dataset, fps)
    if stride == 1:
        return dataset
    rows = np.flatnonzero(dataset.frame_index % stride == 0)
    return _EveryNth(
        root=dataset.root,
        fps=fps,
        tasks=dataset.tasks,
        lengths=-(-dataset.episodes.lengths // stride),
        episode_tasks=dataset.episodes.task_index,
        action=mixed_actions(member, dataset, stride)[rows],
        state=dataset.state[rows],
        environment_state=dataset.environment_state[rows],
        columns={name: values[rows] for name, values in dataset.columns.items()},
        cameras=dataset.cameras,
        groups=dataset.groups,
        action_names=dataset.action_names,
        state_names=dataset.state_names,
        environment_state_names=dataset.environment_state_names,
        decoder=dataset.decoder,
        whole=dataset,
        whole_rows=rows,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _EveryNth(ArrayDataset):
    """Rows of a dataset, with its frames; also `xp.data.dataset.FingerprintedCameras`."""

    whole: Dataset
    whole_rows: np.ndarray
    """[N]: the rows of `whole`."""
    former_fingerprint = ""

    @worked_out
    def fingerprint(self) -> str:
        """Of the whole's, the rows and the actions."""
        digest = hashlib.sha256(self.whole.fingerprint.encode())
        digest.update(np.ascontiguousarray(self.whole_rows, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.action, "<f4").tobytes())
        return digest.hexdigest()

    def frame_decoders(self, camera: str) -> tuple[str, ...]:
        """The whole's."""
        return self.whole.frame_decoders(camera)

    def choose_decoder(self, camera: str, log: Callable[[str], None] | None = None) -> str:
        """The whole's."""
        return self.whole.choose_decoder(camera, log)

    def read_frames(
        self, camera: str, size: tuple[int, int], decoder: str, log: Callable[[str], None] | None = None
    ) -> FramePieces:
        """See `Dataset.read_frames`."""
        places = np.full(self.whole.num_frames, -1)
        places[self.whole_rows] = np.arange(len(self.whole_rows))
        for rows, frames in self.whole.read_frames(camera, size, decoder, log):
            kept = places[rows] >= 0
            if kept.any():
                yield places[rows[kept]], frames[kept]

    def camera_fingerprint(self, camera: str) -> str:
        """The whole's."""
        return datasets.camera_fingerprint(self.whole, camera)

    def require_frames(self, cameras: Iterable[str], episodes: Sequence[int] | None = None) -> None:
        """The whole's."""
        datasets.require_frames(self.whole, cameras, episodes)
