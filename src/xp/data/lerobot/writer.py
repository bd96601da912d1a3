"""Write episodes as a LeRobotDataset v3.0, through LeRobot's own API, appearing whole when it is closed."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xp import atomic
from xp.data.space import writing
from xp.errors import UserError
from xp.runs.execution.scheduling import ordinary_scheduling

_MEND = "data.root=FOLDER"


class LeRobotWriter:
    """The `xp.data.writer.DatasetWriter` of LeRobot: a hidden folder beside `root`, which `close()` renames to `root`.

    As a context manager it closes at the end, or leaves nothing behind after an error.

    Args:
        root: The new dataset folder.
        fps: Frames per second, a positive whole number (LeRobot's formats know no other).
        cameras: Camera name (without `observation.images.`) to (height, width) in pixels.
        state_names: Names of the S state dimensions; empty for a dataset without state.
        action_names: Names of the A action dimensions.
        environment_state_names: Names of the E dimensions of `observation.environment_state`; empty for none.
        robot_type: Noted in the dataset.
        use_videos: Store mp4 (AV1, LeRobot's default encoder: lossy) instead of PNG images (lossless).
        overwrite: Replace an existing folder at `root` (when closing, in one step) instead of refusing.

    Raises:
        UserError: `root` exists, or the fps, names or sizes are impossible.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fps: int | float,
        cameras: Mapping[str, tuple[int, int]],
        state_names: Sequence[str],
        action_names: Sequence[str],
        robot_type: str,
        environment_state_names: Sequence[str] = (),
        use_videos: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.cameras = {name: (int(height), int(width)) for name, (height, width) in cameras.items()}
        self.names = {
            "observation.state": list(state_names),
            "observation.environment_state": list(environment_state_names),
            "action": list(action_names),
        }
        self.num_episodes = 0
        self._check(fps, overwrite)
        self._stack = ExitStack()
        self._dataset: Any = None
        try:
            with writing(self.root, _MEND):
                self._folder = self._stack.enter_context(atomic.folder(self.root))
                self._folder.rmdir()  # LeRobot insists on making the folder itself
                self._dataset = _create(self._folder, int(fps), self._features(use_videos), robot_type, use_videos)
        except BaseException:
            self.abort()
            raise

    def add_episode(
        self,
        task: str,
        images: Mapping[str, np.ndarray],
        state: np.ndarray,
        action: np.ndarray,
        *,
        environment_state: np.ndarray | None = None,
    ) -> None:
        """Append one episode of N >= 1 frames.

        Args:
            task: The language instruction.
            images: Camera name to [N, h, w, 3] uint8.
            state: [N, S], finite.
            action: [N, A], finite: what was done at each frame.
            environment_state: [N, E], finite; None for E = 0.

        Raises:
            UserError: shapes that do not fit the dataset, or NaN or infinity.
        """
        around = np.zeros((len(action), 0)) if environment_state is None else environment_state
        given = zip(self.names, (state, around, action), strict=True)
        vectors = {key: np.asarray(values, np.float32) for key, values in given}
        self._check_episode(images, vectors, len(action))
        with writing(self.root, _MEND), ordinary_scheduling(), _quiet():
            self._add(task, images, vectors, len(action))
        self.num_episodes += 1

    def _add(self, task: str, images: Mapping[str, np.ndarray], vectors: Mapping[str, np.ndarray], n: int) -> None:
        for i in range(n):
            frame: dict[str, Any] = {f"observation.images.{name}": images[name][i] for name in self.cameras}
            frame |= {key: values[i] for key, values in vectors.items() if self.names[key]}
            frame["task"] = task
            self._dataset.add_frame(frame)
        # Not in a process pool: forking a process that runs jax or torch threads can deadlock.
        self._dataset.save_episode(parallel_encoding=False)

    def close(self) -> None:
        """Finish the files and let the dataset appear at `root`.

        Raises:
            UserError: no episode was added; nothing is left behind.
        """
        if self._dataset is None:
            return
        if self.num_episodes == 0:
            self.abort()
            raise UserError(f"No episode was recorded, so there is no dataset at {self.root}: record at least one.")
        dataset, self._dataset = self._dataset, None
        with writing(self.root, _MEND):
            try:
                dataset.finalize()
                _remove_if_empty(self._folder / "images")
                _share(self._folder)
            except BaseException as error:
                _abandon(dataset)
                self._stack.__exit__(type(error), error, error.__traceback__)
                raise
            self._stack.close()

    def abort(self) -> None:
        """Drop everything that was added; `root` is untouched."""
        dataset, self._dataset = self._dataset, None
        _abandon(dataset)
        error = RuntimeError("aborted")
        try:
            self._stack.__exit__(RuntimeError, error, None)
        except RuntimeError as raised:
            assert raised is error

    def __enter__(self) -> "LeRobotWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close() if kind is None else self.abort()

    def _check(self, fps: int | float, overwrite: bool) -> None:
        if self.root.exists() and not overwrite:
            raise UserError(
                f"{self.root} exists already and is left as it is. Give a new folder with data.root=<folder>, or "
                "remove the old one first."
            )
        if fps != int(fps) or fps < 1:
            raise UserError(f"fps={fps} is not possible in a LeRobotDataset: give a whole number, for instance fps=10.")
        if not self.names["action"] or not (self.cameras or self.names["observation.environment_state"]):
            raise UserError(
                "A dataset needs at least one action dimension, and one camera or an environment state: give names and "
                "sizes, e.g. 'env.cameras={oblique: [96, 96]}' or env.environment_state=true."
            )

    def _features(self, use_videos: bool) -> dict[str, dict[str, Any]]:
        features: dict[str, dict[str, Any]] = {
            f"observation.images.{name}": {
                "dtype": "video" if use_videos else "image",
                "shape": (height, width, 3),
                "names": ["height", "width", "channels"],
            }
            for name, (height, width) in self.cameras.items()
        }
        for key, names in self.names.items():
            if names:
                features[key] = {"dtype": "float32", "shape": (len(names),), "names": names}
        return features

    def _check_episode(self, images: Mapping[str, np.ndarray], vectors: Mapping[str, np.ndarray], n: int) -> None:
        assert self._dataset is not None, "the writer is closed"
        expected = {name: (n, *size, 3) for name, size in self.cameras.items()}
        found = {name: np.shape(image) for name, image in images.items()}
        wrong_type = [name for name, image in images.items() if image.dtype != np.uint8]
        if found != expected or wrong_type:
            raise UserError(f"An episode of {n} frames needs uint8 images of {expected}, got {found}.")
        for key, values in vectors.items():
            what, names = key.removeprefix("observation.").replace("_", " "), self.names[key]
            if values.shape != (n, len(names)) or n == 0:
                raise UserError(
                    f"The {what} of an episode has shape {values.shape}; it needs ({max(n, 1)}, {len(names)})."
                )
            if not np.isfinite(values).all():
                frame, dim = np.argwhere(~np.isfinite(values))[0]
                raise UserError(f"The {what} is {values[frame, dim]} at frame {frame}, dimension {dim} ({names[dim]}).")


def _create(root: Path, fps: int, features: dict[str, dict[str, Any]], robot_type: str, use_videos: bool) -> Any:
    """LeRobot's dataset in write mode, offline and quiet."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; the folder is local, so nothing is ever fetched
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings for every episode otherwise
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset: Any = LeRobotDataset.create(
        f"local/{root.name.strip('.')}",
        fps,
        features,
        root=root,
        robot_type=robot_type,
        use_videos=use_videos,
        video_backend="pyav",  # only for reading back; naming it avoids the probe that prints torchcodec's traceback
        streaming_encoding=False,  # it drops frames when the encoder is slow; staged PNGs cost time but lose nothing
    )
    save_episode = dataset.meta.save_episode

    def save_with_floats(
        index: int, length: int, tasks: list[str], stats: dict[str, Any], about: dict[str, Any]
    ) -> None:
        save_episode(index, length, tasks, _as_floats(stats), about)

    dataset.meta.save_episode = save_with_floats
    return dataset


def _as_floats(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Statistics of an episode with all but the counts as floats.

    Those of an episode of one frame keep the frame's own types in LeRobot, and its table of episodes, ten of which are
    written at a time, takes no column of two types.
    """
    return {
        feature: {
            word: value if word == "count" or np.asarray(value).dtype.kind == "f" else np.asarray(value, np.float64)
            for word, value in entry.items()
        }
        for feature, entry in stats.items()
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bar of Hugging Face `datasets` and FFmpeg's remarks while LeRobot saves an episode."""
    import logging

    import datasets
    from av import logging as libav

    lost = logging.getLogger("lerobot.datasets.image_writer")
    lost.addFilter(_refuse_lost)
    hide = not datasets.are_progress_bars_disabled()
    libav.set_libav_level(libav.ERROR)
    try:
        if hide:
            datasets.disable_progress_bars()
        yield
    finally:
        lost.removeFilter(_refuse_lost)
        if hide:
            datasets.enable_progress_bars()


def _refuse_lost(record: Any) -> bool:
    """LeRobot logs a picture that it could not write and goes on; here that is an error."""
    raise OSError(record.getMessage())


def _abandon(dataset: Any) -> None:
    """Keep LeRobot from writing what it still holds when the object is collected, into a folder that is removed."""
    for part in (getattr(dataset, "writer", None), getattr(dataset, "meta", None)):
        if part is not None:
            part._finalized = True


def _share(folder: Path) -> None:
    """Give every file the permissions of newly made files: LeRobot's video files can be read by their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder tree that holds no file (LeRobot leaves its staging folders)."""
    if not folder.is_dir() or any(path.is_file() for path in folder.rglob("*")):
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()
