"""Reading histories of Vintix trajectories: all numbers at once, every contradiction refused.

An HDF5 file is one learning history: groups "FIRST-LAST" of consecutive rows (inclusive step numbers), each with
`proprio_observation` [n, S] and `action` [n, A] float, `reward` [n] float and `step_num` [n] int (0 where an attempt
begins), as github.com/dunnolab/vintix reads them (`vintix/data/torch_dataloaders.py`). xp also writes and reads `done`
and `truncated` [n] bool, which that reader passes over.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xp.data.array_dataset import ArrayDataset
from xp.data.dataset import Groups
from xp.data.vintix.folder import WHAT, TaskFolder, task_folders
from xp.errors import UserError, join_names
from xp.foreign.hdf5 import read_groups
from xp.foreign.text import printable

KEYS = ("proprio_observation", "action", "reward", "step_num")
ENDS = ("done", "truncated")
_NOTES = "metadata"
"""A group of notes that the self-improving fork writes beside the rows, and its own reader stumbles over."""
_MOST_STEP = 2**31 - 1
_AGAIN = "Record the history again, or copy it again from where it came from."


@dataclass(frozen=True, eq=False)
class History:
    """The rows of one file, in order: `state` [n, S], `action` [n, A], `reward` [n] float32, `step` [n], `done` [n]."""

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    step: np.ndarray
    """int64, 0 where an attempt begins."""
    done: np.ndarray
    """bool: the attempt ended with the row, by its environment, by its length or because the history ends."""

    def __len__(self) -> int:
        return len(self.step)


def open_folder(root: Path, *, decoder: str = "auto") -> ArrayDataset:
    """All histories of a dataset; each is an episode, each task a group with widths of its own.

    Raises:
        UserError: a missing or damaged file, rows that contradict each other, or NaN or infinity.
    """
    folders = task_folders(root)
    if not folders:
        raise UserError(f"{root} holds no Vintix trajectories (*.h5). Give the folder that does: data.root=FOLDER")
    rates = sorted({folder.fps for folder in folders})
    if len(rates) > 1:
        raise UserError(
            f"The tasks of {root} have different rates (fps {join_names(f'{rate:g}' for rate in rates)} in their "
            "descriptions): expected one. Give one of the tasks' folders: data.root=FOLDER"
        )
    tasks = list({folder.task: folder for folder in folders}.values())
    number = {task.task: place for place, task in enumerate(tasks)}
    files = [(folder, path) for folder in folders for path in folder.histories()]
    histories = [read_history(path, folder.state_dim, folder.action_dim) for folder, path in files]
    of_task = np.array([number[folder.task] for folder, _ in files], np.int64)
    widest = {name: max(tasks, key=lambda task: getattr(task, f"{name}_dim")) for name in ("state", "action")}
    return ArrayDataset(
        root=root,
        fps=rates[0],
        tasks=[task.task for task in tasks],
        lengths=np.array([len(history) for history in histories], np.int64),
        episode_tasks=of_task,
        action=_stacked([history.action for history in histories], widest["action"].action_dim),
        state=_stacked([history.state for history in histories], widest["state"].state_dim),
        files=[*(folder.description for folder in folders), *(path for _, path in files)],
        columns={
            "reward": np.concatenate([history.reward for history in histories]),
            "done": np.concatenate([history.done for history in histories]),
            "step": np.concatenate([history.step for history in histories]),
        },
        groups=_groups(tasks, of_task),
        action_names=widest["action"].action_names,
        state_names=widest["state"].state_names,
        decoder=decoder,
    )


def read_history(path: Path, state_dim: int, action_dim: int) -> History:
    """The rows of one file of a task with those widths.

    Raises:
        UserError: no HDF5 file, a group or array that is missing or of another shape, unequal numbers of rows, groups
            that leave rows out, a reward that is not finite, or step numbers that are none.
    """
    found = read_groups(path, WHAT, is_wanted=_is_rows(path), arrays=(*KEYS, *ENDS))
    names = sorted(found, key=_bounds)
    if not names:
        raise UserError(f"{printable(path)} holds no rows: expected groups named FIRST-LAST, such as 0-999. {_AGAIN}")
    next_row = 0
    for name in names:
        first, last = _bounds(name)
        _check_group(path, name, found[name], state_dim, action_dim)
        rows = len(found[name]["step_num"])
        if first != next_row or rows != last - first + 1:
            raise UserError(
                f"{printable(path)}: the group {name} holds {rows} rows, and the groups before it {next_row}: expected "
                f"a group {next_row}-{next_row + rows - 1}, since a history has every row once. {_AGAIN}"
            )
        next_row = last + 1
    arrays = {key: np.concatenate([found[name][key] for name in names]) for key in KEYS}
    step = _steps(path, arrays["step_num"])
    reward = arrays["reward"].astype(np.float32)
    if not np.isfinite(reward).all():
        row = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise UserError(f"{printable(path)}: the reward of row {row} is {reward[row]}: expected a number. {_AGAIN}")
    return History(
        state=arrays["proprio_observation"].astype(np.float32),
        action=arrays["action"].astype(np.float32),
        reward=reward,
        step=step,
        done=_done(path, step, [found[name] for name in names]),
    )


def _is_rows(path: Path):
    def is_wanted(name: str) -> bool:
        if name == _NOTES:
            return False
        if re.fullmatch(r"\d{1,15}-\d{1,15}", name) is None:
            raise UserError(
                f"{printable(path)} has an entry '{printable(name, 80)}': expected groups named FIRST-LAST, such as "
                f"0-999, in {WHAT}. {_AGAIN}"
            )
        return True

    return is_wanted


def _bounds(name: str) -> tuple[int, int]:
    first, last = name.split("-")
    return int(first), int(last)


def _check_group(path: Path, name: str, arrays: dict[str, np.ndarray], state_dim: int, action_dim: int) -> None:
    place = f"{printable(path)}: the group {name}"
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise UserError(
            f"{place} has no array '{missing[0]}' (it has: {join_names(arrays)}): expected {join_names(KEYS)}. {_AGAIN}"
        )
    widths = {"proprio_observation": (state_dim,), "action": (action_dim,)}
    for key, array in arrays.items():
        width = widths.get(key, ())
        if array.shape[1:] != width or not array.ndim:
            raise UserError(
                f"{place} has {key} of shape {array.shape}: expected {('rows', *width)}, as the description says. "
                f"Mend the description (JSON), or: {_AGAIN}"
            )
    rows = {key: len(array) for key, array in arrays.items()}
    if len(set(rows.values())) > 1 or not rows["step_num"]:
        counts = join_names(f"{count} of {key}" for key, count in rows.items())
        raise UserError(
            f"{place} has unequal numbers of rows, or none: {counts}. Each row is one step with its observation, "
            f"action, reward and number, so all must be equal; a reader that went on would shift them. {_AGAIN}"
        )


def _steps(path: Path, given: np.ndarray) -> np.ndarray:
    """Step numbers as int64, each 0 or one more than the one before."""
    step = given.astype(np.int64)
    wrong = (step != given) | (step < 0) | (step > _MOST_STEP)
    wrong[1:] |= (step[1:] != 0) & (step[1:] != step[:-1] + 1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        before = f" after {given[row - 1]}" if row else ""
        raise UserError(
            f"{printable(path)}: step_num is {given[row]}{before} in row {row}: expected 0, where an attempt begins, "
            f"or one more than in the row before. {_AGAIN}"
        )
    return step


def _done(path: Path, step: np.ndarray, groups: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Where an attempt ended: the next row begins another, or there is none. What the file says must agree."""
    ends = np.append(step[1:] == 0, True)
    for key in ENDS:
        if any(key in group for group in groups):
            said = np.concatenate([group.get(key, np.zeros(len(group["step_num"]), bool)) for group in groups])
            wrong = np.flatnonzero(said.astype(bool) & ~ends)
            if len(wrong):
                raise UserError(
                    f"{printable(path)}: {key} is true in row {wrong[0]}, and the next row goes on with the same "
                    f"attempt (step_num {step[wrong[0] + 1]}). {_AGAIN}"
                )
    return ends


def _stacked(parts: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Arrays [n, d] one after the other as [N, width], zeros beyond their own widths."""
    out = np.zeros((sum(map(len, parts)), width), np.float32)
    start = 0
    for part in parts:
        out[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return out


def _groups(tasks: Sequence[TaskFolder], of_task: np.ndarray) -> Groups:
    widths: dict[str, tuple[int, int]] = {}
    for task in tasks:
        own = (task.state_dim, task.action_dim)
        if widths.setdefault(task.parameter_group, own) != own:
            raise UserError(
                f"{task.description}: group_name '{printable(task.parameter_group)}' is that of tasks with other "
                f"widths ({widths[task.parameter_group]} and {own} of observation and action): expected equal ones, "
                "since the tasks of a group share encoders. Give the task a group_name of its own."
            )
    return Groups(
        names=tuple(task.task for task in tasks),
        action_dims=tuple(task.action_dim for task in tasks),
        state_dims=tuple(task.state_dim for task in tasks),
        index=of_task,
        parameter_groups=tuple(task.parameter_group for task in tasks),
        reward_scales=tuple(task.reward_scale for task in tasks),
    )
