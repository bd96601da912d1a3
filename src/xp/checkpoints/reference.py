# pyright: strict
"""How users name a checkpoint: FOLDER, or FOLDER@STEP for one step of a run or of a policy folder with several."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w.-]+)?")
"""Text that may be meant as the id of a policy on a hub."""


@dataclass(frozen=True)
class CheckpointRef:
    """A folder (or file) and, where one was named, the step in it."""

    path: Path
    step: int | None

    @classmethod
    def parse(cls, text: str | Path) -> "CheckpointRef":
        """Read `FOLDER@STEP`: an @ followed by a whole number at the end counts, unless it is part of a folder's name.

        So `me@nas/run` is a folder, and so is `run@200` where a folder of that very name is there. `~` is expanded.
        """
        whole = _expanded(text)
        named = re.fullmatch(r"(.+)@(\d{1,18})", str(whole), re.S)
        if named is None or exists(whole):
            return cls(whole, None)
        return cls(Path(named[1]), int(named[2]))


def _expanded(text: str | Path) -> Path:
    """With `~` and `~user` as folders; a user that nobody is stays as typed."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def exists(path: str | Path) -> bool:
    """Whether anything is there; unlike `Path.exists` also of a name that is too long or holds a null byte."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there, of whatever a user may have typed."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: str | Path) -> bool:
    """Whether a file is there, of whatever a user may have typed."""
    return os.path.isfile(path)  # noqa: PTH113


def missing_reference(text: str | Path) -> str:
    """Why nothing is there, as part of a message: the step is no number, or there is no such folder."""
    folder, at, step = str(text).rpartition("@")
    if at and "/" not in step and not step.isdigit() and exists(_expanded(folder)):
        return f"{step!r} is no step of {folder}: FOLDER@STEP takes a number, as in {folder}@200"
    if _ID.fullmatch(str(text)):
        return f"no such folder (for the policy of this name on the hub type hf://{text})"
    return "no such folder"
