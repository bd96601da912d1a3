"""What a folder of LIBERO's demonstrations looks like: the names of its files. Imports nothing heavy."""

import os
from pathlib import Path

from xp.foreign.paths import member

WHAT = "LIBERO's demonstrations"
_SUFFIX = ".hdf5"


def looks_like(root: str | Path) -> bool:
    """Whether a folder holds HDF5 files by LIBERO's ending. Never raises."""
    try:
        return bool(_names(Path(root).expanduser()))
    except RuntimeError:  # no home
        return False


def task_files(root: Path) -> list[Path]:
    """The files, one for each task, in the order of their names.

    Raises:
        UserError: a link that leads out of the folder.
    """
    return [member(root, name, WHAT) for name in _names(root)]


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.endswith(_SUFFIX))
    except OSError:
        return []
