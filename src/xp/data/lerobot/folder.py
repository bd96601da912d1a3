"""A LeRobotDataset v3.0 folder that has been read: numbers in memory, and which files hold the frames."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from xp.data.dataset import Episodes
from xp.data.lerobot.info import DatasetInfo
from xp.errors import UserError
from xp.foreign.text import printable

_DIGITS = 64
"""Of a digest."""
_BLOCK = 1 << 16
_BLOCKS = 16


@dataclass(frozen=True)
class VideoPart:
    """One mp4 file: the episodes in it and, for each, the time in seconds at which it starts in the file."""

    path: Path
    episodes: np.ndarray
    from_timestamps: np.ndarray


@dataclass(frozen=True)
class LeftOut:
    """Videos that a folder does not hold, since the run that it was downloaded for reads none of them."""

    origin: str = ""
    """The id of the dataset on its hub."""
    files: frozenset[Path] = frozenset()


@dataclass(frozen=True, eq=False)
class LeRobotFolder:
    """A folder's numbers in memory, in its units, and where its frames are.

    N frames, A action, S state and E environment state dimensions.
    """

    info: DatasetInfo
    decoder: str
    episodes: Episodes
    action: np.ndarray
    state: np.ndarray
    environment_state: np.ndarray
    """[N, E]: what the robot does not sense itself, such as where objects are; E = 0 in most datasets."""
    episode_index: np.ndarray
    frame_index: np.ndarray
    task_index: np.ndarray
    data_files: tuple[Path, ...]
    videos: dict[str, tuple[VideoPart, ...]]
    timestamps: np.ndarray | None = None
    """[N] seconds from the start of its episode at which each row was recorded; None for frame_index / fps."""
    left_out: LeftOut = LeftOut()  # noqa: RUF009 - frozen
    known_digests: str = ""
    """What `digests` is, where it was computed before."""

    def __repr__(self) -> str:
        """A line for each thing there is to know, as notebooks show it."""
        kind = "video" if self.videos else "pictures"
        lines = {
            "root": str(self.root),
            "episodes": f"{self.episodes.num} of {self.num_frames:,} frames at {self.fps:g} per second",
            "cameras": _line(f"{name} {h}x{w}" for name, (h, w, _) in self.cameras.items()) + f" ({kind})"
            if self.cameras
            else "none",
            "action": f"{self.action.shape} {self.action.dtype}: {_line(self.action_names)}",
            "state": f"{self.state.shape} {self.state.dtype}: {_line(self.state_names)}" if self.state_dim else "none",
            "tasks": f"{len(self.tasks)}: {_line(map(repr, self.tasks))}",
            "robot": self.info.robot_type or "not named",
        }
        if self.environment_dim:
            around = self.environment_state
            names = _line(self.environment_state_names)
            lines["environment_state"] = f"{around.shape} {around.dtype}: {names}"
        width = max(map(len, lines)) + 2
        return "\n".join(["Dataset", *(f"  {name:<{width}}{printable(text, 400)}" for name, text in lines.items())])

    @property
    def root(self) -> Path:
        """The dataset folder."""
        return self.info.root

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Camera name to (height, width, 3) in pixels as stored."""
        return self.info.cameras

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.info.fps

    @property
    def tasks(self) -> list[str]:
        """Language instructions by task index."""
        return self.info.tasks

    @property
    def action_dim(self) -> int:
        """A."""
        return self.info.action_dim

    @property
    def state_dim(self) -> int:
        """S; 0 without a state."""
        return self.info.state_dim

    @property
    def environment_dim(self) -> int:
        """E; 0 without an environment state."""
        return self.info.environment_dim

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A action dimensions."""
        return self.info.action_names

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state dimensions."""
        return self.info.state_names

    @property
    def environment_state_names(self) -> tuple[str, ...]:
        """Names of the E environment state dimensions."""
        return self.info.environment_state_names

    @property
    def times(self) -> np.ndarray:
        """[N] float64: seconds of each row since its episode began."""
        return self.frame_index / self.fps if self.timestamps is None else self.timestamps

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.action)

    def rows(self, episodes: "np.ndarray | Sequence[int]") -> np.ndarray:
        """All row numbers [n] int64 of the given episodes, in their order."""
        return self.episodes.rows(episodes)

    @property
    def fingerprint(self) -> str:
        """64 hex digits that name the content of the rows, wherever the folder lies.

        sha256 over all actions, states, environment states, episode and task indices, over `features` of info.json,
        over sizes and 16 evenly spread 64 KiB blocks of every data file (small files are hashed whole), and over the
        times of rows and where episodes lie in their videos, unless these are the plain ones: a row every 1 / fps
        seconds, episodes one after the other from the start of each file. What videos hold is `camera_fingerprint`'s:
        a folder without those that nobody asked for is the same dataset.
        Folder names and file times do not count, so a copy has the same fingerprint; nor do the footers of parquet
        files, where the `datasets` library leaves a random number.
        """
        return self.digests[:_DIGITS]

    def camera_fingerprint(self, camera: str) -> str:
        """64 hex digits that name the content of a camera's videos, of those that are here; "" where none is, and for
        pictures, which lie in the rows.
        """
        if camera not in self.videos or not self._videos_of(camera):
            return ""
        place = _DIGITS * (1 + sorted(self.videos).index(camera))
        return self.digests[place : place + _DIGITS]

    @property
    def digests(self) -> str:
        """The fingerprint, and behind it those of the cameras with videos, by name."""
        return self.known_digests or self._computed_digests

    @cached_property
    def _computed_digests(self) -> str:
        cameras = (self._files_digest("xp.camera 1", self._videos_of(camera)) for camera in sorted(self.videos))
        return "".join(
            [self._rows_digest(b"xp.data 3" if self.videos else b"xp.data 2", sorted(self.data_files)), *cameras]
        )

    @cached_property
    def former_fingerprint(self) -> str:
        """What `fingerprint` was in versions before cameras had their own: the videos counted. "" where it is the same,
        or a part is here alone.
        """
        if self.left_out.files or not self.videos:
            return ""
        videos = [path for camera in self.videos for path in self._videos_of(camera)]
        return self._rows_digest(b"xp.data 2", sorted([*self.data_files, *videos]))

    def require_frames(self, cameras: Iterable[str], episodes: Sequence[int] | None = None) -> None:
        """Refuse frames that this folder does not hold; without `episodes`, cameras of which it holds nothing.

        Raises:
            UserError: which camera and episode, and how to get them.
        """
        for camera in cameras if self.left_out.files else ():
            missing = [part for part in self.videos.get(camera, ()) if part.path in self.left_out.files]
            asked = np.arange(self.episodes.num if missing and not self._videos_of(camera) else 0)
            if episodes is not None:
                asked = np.asarray(episodes, np.int64)
            for part in missing:
                found = np.intersect1d(part.episodes, asked)
                if len(found):
                    raise UserError(
                        f"{self.root} holds what another run reads of {self.left_out.origin}: no frames of the camera "
                        f"'{camera}' in episode {found[0]}. Name the dataset by its id and the rest is downloaded: "
                        f"{self.left_out.origin} in place of the folder (data.root, predict.data_root, eval.data_root)"
                    )

    def _videos_of(self, camera: str) -> list[Path]:
        return sorted(part.path for part in self.videos[camera] if part.path not in self.left_out.files)

    def _files_digest(self, start: str, files: Iterable[Path]) -> str:
        digest = hashlib.sha256(start.encode())
        for path in files:
            digest.update(str(path.relative_to(self.root)).encode())
            _hash_file(digest, path)
        return digest.hexdigest()

    def _rows_digest(self, start: bytes, files: Iterable[Path]) -> str:
        digest = hashlib.sha256(start)
        features = json.loads((self.root / "meta" / "info.json").read_text(encoding="utf-8"))["features"]
        digest.update(json.dumps([features, self.fps, self.tasks], sort_keys=True).encode())
        for array in (self.action, self.state, self.environment_state, self.episode_index, self.task_index):
            digest.update(np.ascontiguousarray(array).data)
        for array in self._unusual_times():
            digest.update(np.ascontiguousarray(array).data)
        for path in files:
            digest.update(str(path.relative_to(self.root)).encode())
            _hash_file(digest, path)
        return digest.hexdigest()

    def _unusual_times(self) -> list[np.ndarray]:
        """Times that decide which frame is whose, where they are not the plain ones (to a tenth of a frame)."""
        tolerance, found = 0.1 / self.fps, []
        if self.videos and np.abs(self.times - self.frame_index / self.fps).max() > tolerance:
            found.append(self.times)
        for part in (part for parts in self.videos.values() for part in parts):
            lengths = self.episodes.lengths[part.episodes]
            plain = (np.cumsum(lengths) - lengths) / self.fps
            if (np.diff(part.episodes) < 0).any() or np.abs(part.from_timestamps - plain).max() > tolerance:
                found += [part.episodes, part.from_timestamps]
        return found


def _line(words: Iterable[str], most: int = 12) -> str:
    """The first words and how many there are in all."""
    words = list(words)
    return ", ".join(words[:most]) + (f", ... ({len(words)} in all)" if len(words) > most else "")


def _hash_file(digest: "hashlib._Hash", path: Path) -> None:
    with path.open("rb") as file:
        size = _content_size(path, file)
        digest.update(str(size).encode())
        if size <= _BLOCK * _BLOCKS:
            digest.update(file.read(size))
            return
        for i in range(_BLOCKS):
            file.seek((size - _BLOCK) * i // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))


def _content_size(path: Path, file: BinaryIO) -> int:
    """Bytes of a file before its parquet footer, whose length stands in front of the closing magic number."""
    size = path.stat().st_size
    if path.suffix != ".parquet":
        return size
    file.seek(size - 8)
    footer = int.from_bytes(file.read(4), "little") + 8
    file.seek(0)
    return max(0, size - footer)
