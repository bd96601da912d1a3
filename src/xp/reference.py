"""How users name a checkpoint: FOLDER, or FOLDER@STEP for one step of a run or of a policy folder with several."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reference:
    """A folder (or file) and, where one was named, the step in it."""

    path: Path
    step: int | None

    @classmethod
    def parse(cls, text: str | Path) -> "Reference":
        """Read `FOLDER@STEP`: an @ followed by a whole number at the end counts, unless it is part of a folder's name.

        So `me@nas/run` is a folder, and so is `run@200` where a folder of that very name is there. `~` is expanded.
        """
        whole = Path(text).expanduser()
        named = re.fullmatch(r"(.+)@(\d{1,18})", str(whole), re.S)
        if named is None or _exists(whole):
            return cls(whole, None)
        return cls(Path(named[1]), int(named[2]))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, a null byte
        return False


def missing_reference(text: str | Path) -> str:
    """Why nothing is there, as part of a message: the step is no number, or there is no such folder."""
    folder, at, step = str(text).rpartition("@")
    if at and "/" not in step and not step.isdigit() and _exists(Path(folder).expanduser()):
        return f"{step!r} is no step of {folder}: FOLDER@STEP takes a number, as in {folder}@200"
    return "no such folder"
