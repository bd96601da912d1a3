"""Writing histories of Vintix trajectories: the folder appears whole, after every file was read back and compared."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xp import atomic
from xp.data.space import writing
from xp.data.vintix.reader import ENDS, KEYS, read_history
from xp.errors import UserError

if TYPE_CHECKING:
    import h5py

GROUP_ROWS = 1000
"""Rows of an HDF5 group; the last one of a file has what is left."""
_TYPES = {
    "proprio_observation": "<f4",
    "action": "<f4",
    "reward": "<f4",
    "step_num": "<i4",
    "done": "?",
    "truncated": "?",
}
_MEND = "data.root=FOLDER"
Arrays = dict[str, np.ndarray]


class HistoryFile:
    """One history in the making: rows in groups FIRST-LAST of `GROUP_ROWS`, as the original reader expects them."""

    def __init__(self, path: Path) -> None:
        """A new file."""
        import h5py

        self.path, self._file = path, h5py.File(path, "x")
        self._waiting: list[Arrays] = []
        self._count, self._written = 0, 0
        self._digest = hashlib.sha256()

    def append(self, arrays: Arrays) -> None:
        """Add the rows of an attempt, checked before."""
        self._waiting.append(arrays)
        self._count += len(arrays["step_num"])
        if self._count >= GROUP_ROWS:
            self._flush(whole=False)

    def close(self, state_dim: int, action_dim: int) -> None:
        """Write what is left, and read the file back.

        Raises:
            UserError: the file does not hold what was written.
        """
        self._flush(whole=True)
        self._file.close()
        history = read_history(self.path, state_dim, action_dim)
        digest = hashlib.sha256()
        for start in range(0, len(history), GROUP_ROWS):
            part = slice(start, start + GROUP_ROWS)
            for values, key in zip((history.state, history.action, history.reward, history.step), KEYS, strict=True):
                digest.update(values[part].astype(_TYPES[key]).tobytes())
        if digest.digest() != self._digest.digest():
            raise UserError(
                f"{self.path.name} was written and reads back as something else, so nothing of it is kept: the disk or "
                f"its driver is at fault. Record to another disk: {_MEND}"
            )

    def abort(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _flush(self, *, whole: bool) -> None:
        """Write full groups, and with `whole` the last one too."""
        joined = {key: np.concatenate([part[key] for part in self._waiting]) for key in self._waiting[0]}
        start = 0
        while self._count - start >= GROUP_ROWS or (whole and start < self._count):
            rows = {key: values[start : start + GROUP_ROWS] for key, values in joined.items()}
            self._write(self._file, rows)
            start += len(rows["step_num"])
        self._count -= start
        self._waiting = [{key: values[start:] for key, values in joined.items()}]

    def _write(self, file: "h5py.File", rows: Arrays) -> None:
        first = self._written
        self._written += len(rows["step_num"])
        group = file.create_group(f"{first}-{self._written - 1}")
        for key, values in rows.items():
            group.create_dataset(key, data=values)
        for key in KEYS:
            self._digest.update(rows[key].tobytes())


class TrajectoryWriter:
    """The `xp.data.writer.DatasetWriter` of this format: attempts of one task, in one history or several."""

    def __init__(self, folder: Path, name: str, *, state_names: Sequence[str], action_names: Sequence[str]) -> None:
        """Writes into `folder`, which will be called `name`."""
        self.folder, self.name = folder, name
        self.state_dim, self.action_dim = len(state_names), len(action_names)
        self.task: str | None = None
        self.num_episodes = 0
        self._files: dict[int | None, HistoryFile] = {}

    def add_episode(
        self,
        task: str,
        images: Mapping[str, np.ndarray],
        state: np.ndarray,
        action: np.ndarray,
        *,
        environment_state: np.ndarray | None = None,
        reward: np.ndarray | None = None,
        truncated: bool = False,
        history: int | None = None,
    ) -> None:
        """Append one attempt of N >= 1 steps to a history.

        Args:
            task: The task's name, the same for all attempts.
            images: None: the format holds no pictures.
            state: [N, S], finite: what was observed before each action.
            action: [N, A], finite.
            environment_state: None: the format has no place for it.
            reward: [N], finite: what followed each action.
            truncated: The attempt was cut (by its length) and had not ended.
            history: Which environment's history it continues (`trajectories_env_N.h5`); None: the only one
                (`trajectories.h5`).

        Raises:
            UserError: no rewards, another task, shapes that do not fit, NaN or infinity, or pictures.
        """
        if images or (environment_state is not None and environment_state.size):
            raise UserError("The format vintix holds no pictures and no environment state. Type collect.format=lerobot")
        if reward is None:
            raise UserError(
                "The format vintix holds trajectories with rewards, and this suite gives none. Record in a format "
                "without: collect.format=lerobot"
            )
        if self.task not in (None, task):
            raise UserError(
                f"A folder of the format vintix holds one task: '{self.task}' was recorded, now '{task}'. Record each "
                f"task in a folder of its own, side by side: {_MEND}/TASK"
            )
        self.task = task
        with writing(self.folder, _MEND):
            self._file(history).append(self._arrays(state, action, reward, truncated))
        self.num_episodes += 1

    def close(self, description: Mapping[str, object]) -> None:
        """Finish and check all files, and write the description.

        Raises:
            UserError: no attempt was added, or a file does not read back.
        """
        if not self._files:
            raise UserError(f"No episode was recorded, so there is no dataset {self.name}: record at least one.")
        with writing(self.folder, _MEND):
            for file in self._files.values():
                file.close(self.state_dim, self.action_dim)
            atomic.write_json(self.folder / f"{self.name}.json", {"task_name": self.task, **description})

    def abort(self) -> None:
        """Close all files as they are."""
        for file in self._files.values():
            file.abort()

    def _file(self, history: int | None) -> HistoryFile:
        if history not in self._files:
            name = "trajectories.h5" if history is None else f"trajectories_env_{history}.h5"
            self._files[history] = HistoryFile(self.folder / name)
        return self._files[history]

    def _arrays(self, state: np.ndarray, action: np.ndarray, reward: np.ndarray, truncated: bool) -> Arrays:
        rows = len(action)
        given = {"proprio_observation": state, "action": action, "reward": reward}
        shapes = {"proprio_observation": (rows, self.state_dim), "action": (rows, self.action_dim), "reward": (rows,)}
        arrays: Arrays = {}
        for key, values in given.items():
            if np.shape(values) != shapes[key] or not rows:
                raise UserError(
                    f"An attempt's {key} has shape {np.shape(values)}: expected {shapes[key]}, at least one row."
                )
            arrays[key] = np.asarray(values, _TYPES[key])
            if not np.isfinite(arrays[key]).all():
                row = int(np.argwhere(~np.isfinite(arrays[key]))[0][0])
                raise UserError(f"An attempt's {key} holds {np.asarray(values)[row]} at step {row}: expected numbers.")
        last = np.arange(rows) == rows - 1
        ends = (last & (not truncated), last & truncated)
        return {
            **arrays,
            "step_num": np.arange(rows, dtype=_TYPES["step_num"]),
            **dict(zip(ENDS, ends, strict=True)),
        }


@contextmanager
def new_folder(
    root: Path,
    *,
    fps: float,
    state_names: Sequence[str],
    action_names: Sequence[str],
    robot_type: str,
    overwrite: bool = False,
    parameter_group: str | None = None,
    reward_scale: float = 1.0,
) -> Iterator[TrajectoryWriter]:
    """A writer of one task; the folder appears at `root` when the block ends well.

    Args:
        root: The new folder.
        fps: Steps per second.
        state_names: Names of the S numbers of an observation.
        action_names: Names of the A numbers of an action.
        robot_type: Noted in the description.
        overwrite: Replace what is at `root` (when closing, in one step) instead of refusing.
        parameter_group: `group_name` of the description; None: the task's name.
        reward_scale: What a model multiplies rewards by.

    Raises:
        UserError: `root` exists, no action has a name, or nothing was recorded.
    """
    if root.exists() and not overwrite:
        raise UserError(
            f"{root} exists already and is left as it is. Give a new folder with data.root=FOLDER, or remove the old "
            "one first."
        )
    if not action_names:
        raise UserError("A dataset of the format vintix needs at least one action dimension.")
    with ExitStack() as stack:
        with writing(root, _MEND):
            folder = stack.enter_context(atomic.folder(root))
        writer = TrajectoryWriter(folder, root.resolve().name, state_names=state_names, action_names=action_names)
        try:
            yield writer
            writer.close(
                {
                    "group_name": parameter_group or writer.task,
                    "observation_shape": {"proprio": [len(state_names)]},
                    "action_dim": len(action_names),
                    "action_type": "continuous",
                    "reward_scale": reward_scale,
                    "fps": fps,
                    "robot_type": robot_type,
                    "state_names": list(state_names),
                    "action_names": list(action_names),
                }
            )
        except BaseException:
            writer.abort()
            raise
