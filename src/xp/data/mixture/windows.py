"""Windows of several datasets as batches of one form: padded to the widest, cameras by the mixture's names."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from xp.data.buffers import Buffers
from xp.data.frame_source import CameraFrames
from xp.data.mixture.members import Mixture
from xp.data.windows import Batch, Windows

MEMBER = "member_index"
"""The key of a batch that says whose each window is: [B] int64, a place in `Mixture.members`."""

Frames = Mapping[str, CameraFrames]
"""{member: {camera of the mixture: frames [N, h, w, 3]}}; a camera has one size in all members."""


class MixtureWindows:
    """The windows of all datasets, numbered one dataset after the other.

    A batch is as one of `Windows`, with `member_index`. Actions and states are as wide as the widest dataset's; what is
    beyond a dataset's own width is 0. A camera that a dataset does not have is black, and `<camera>_is_pad` [B, T] says
    so. Columns that only some datasets have (rewards, groups) are left out.

    Args:
        mixture: the datasets.
        frames: of each dataset and camera.
        episodes: {member: episode numbers to take windows from}; members that are left out give none.
        history: T, as of `Windows`; also the others.
        horizon: see there.
        before: see there.
    """

    def __init__(
        self,
        mixture: Mixture,
        frames: Frames,
        episodes: Mapping[str, Sequence[int]],
        *,
        history: int,
        horizon: int,
        before: int | None = None,
    ) -> None:
        self.mixture = mixture
        self.names = tuple(member.name for member in mixture.members)
        self.parts = {
            place: Windows(
                member.dataset,
                frames[member.name],
                episodes[member.name],
                history=history,
                horizon=horizon,
                before=before,
                stride=member.stride,
                cameras=member.fed,
            )
            for place, member in enumerate(mixture.members)
            if len(episodes.get(member.name, ()))
        }
        counts = [len(self.parts[place]) if place in self.parts else 0 for place in range(len(self.names))]
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """The number of each dataset's first window, and behind them how many there are in all."""
        shapes = {name: array.shape[1:] for each in frames.values() for name, array in each.items()}
        self._shapes = {name: shapes[name] for name in sorted(shapes)}
        self._partial = [name for name in self._shapes if any(name not in each for each in frames.values())]
        self._buffers = {name: Buffers() for name in self._shapes}

    def __len__(self) -> int:
        return int(self.first[-1])

    def batch(self, indices: Int[np.ndarray, " batch"] | Sequence[int]) -> Batch:
        """The windows of these numbers as one batch."""
        index = np.asarray(indices, np.int64)
        whose = np.searchsorted(self.first, index, side="right") - 1
        found: Batch = {}
        for place in np.unique(whose):
            rows = np.flatnonzero(whose == place)
            part = self.parts[int(place)].batch(index[rows] - self.first[place])
            self._put(found, rows, part, len(index))
        found[MEMBER] = whose
        return found

    @property
    def look_ahead(self) -> int:
        """The most that one of the datasets asks for."""
        return max((part.look_ahead for part in self.parts.values()), default=0)

    def expect(self, indices: Int[np.ndarray, " batch"] | Sequence[int]) -> None:
        """Say that the batch of these numbers will be asked for soon."""
        index = np.asarray(indices, np.int64)
        whose = np.searchsorted(self.first, index, side="right") - 1
        for place in np.unique(whose):
            part = self.parts[int(place)]
            if part.look_ahead:
                part.expect(index[whose == place] - self.first[place])

    def of_member(self, name: str) -> Int[np.ndarray, " windows"]:
        """The numbers of a dataset's windows."""
        place = self.names.index(name)
        return np.arange(self.first[place], self.first[place + 1])

    def _put(self, batch: Batch, rows: np.ndarray, part: Batch, count: int) -> None:
        """Put the windows of one dataset into their rows of a batch of `count`."""
        for key, width in self._widths().items():
            values = np.asarray(part[key])
            wide = batch.setdefault(key, np.zeros((count, values.shape[1], width), np.float32))
            assert isinstance(wide, np.ndarray)
            wide[rows, :, : values.shape[2]] = values[:, :, :width]
        for key in ("observation_is_pad", "action_is_pad", "episode_index", "frame_index"):
            values = np.asarray(part[key])
            plain = batch.setdefault(key, np.zeros((count, *values.shape[1:]), values.dtype))
            assert isinstance(plain, np.ndarray)
            plain[rows] = values
        texts = batch.setdefault("task", [""] * count)
        assert isinstance(texts, list)
        for row, text in zip(rows, part["task"], strict=True):
            texts[row] = str(text)
        self._put_images(batch, rows, part, count)

    def _put_images(self, batch: Batch, rows: np.ndarray, part: Batch, count: int) -> None:
        steps = np.asarray(part["observation_is_pad"]).shape[1]
        for name, shape in self._shapes.items():
            key = f"observation.images.{name}"
            if key not in batch:
                batch[key] = self._buffers[name].empty((count, steps, *shape))
            pixels, given = batch[key], part.get(key)
            assert isinstance(pixels, np.ndarray)
            pixels[rows] = 0 if given is None else given
            if name in self._partial:
                dark = batch.setdefault(f"{key}_is_pad", np.zeros((count, steps), bool))
                assert isinstance(dark, np.ndarray)
                dark[rows] = given is None

    def _widths(self) -> dict[str, int]:
        """What is padded to the widest dataset's."""
        widths = {"action": self.mixture.action_dim, "observation.state": self.mixture.state_dim}
        around = self.mixture.environment_dim
        return {**widths, "observation.environment_state": around} if around else widths
