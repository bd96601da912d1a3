"""Read JSON files of run folders, with one clear message when a file is damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path

from xp.errors import UserError
from xp.foreign import json_file
from xp.foreign.paths import MissingError, RefusedError
from xp.foreign.text import printable, shown
from xp.json_types import JSON


class _Required(Enum):
    """Says that a file has to be there."""

    REQUIRED = auto()


_REQUIRED = _Required.REQUIRED
_MOST = 128_000_000
"""Bytes: measures of every episode of a long evaluation take a few million."""


@contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Turn what the system says about a folder that cannot be written into a `UserError`."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}. Choose another place with paths.outputs=FOLDER (single "
            "runs) or paths.multirun=FOLDER (sweeps and experiments), or free some space."
        ) from None


def read_json(path: str | Path, default: JSON | _Required = _REQUIRED) -> JSON:
    """The content of a JSON file of a run, bounded in size and depth; `default` if there is no such file.

    Raises:
        UserError: the file is missing and no default is given, is no regular file, cannot be read, or is not JSON.
    """
    path = Path(path)
    try:
        return json_file.read_json(path, "a file of a run", _MOST)
    except MissingError:
        if not isinstance(default, _Required):
            return default
        raise UserError(
            f"There is no {path.name} in {printable(path.parent)}, so this is not a complete run folder. Give the "
            "folder of a run, such as outputs/NAME or multirun/EXPERIMENT/JOB; `xp task=status` lists the runs there "
            "are."
        ) from None
    except RefusedError as error:
        raise UserError(f"{error} Or move the run's folder away and run the command again.") from None


def read_object(path: str | Path, default: JSON | _Required = _REQUIRED) -> dict[str, JSON]:
    """The object that a JSON file of a run holds; raises as `read_json` does, and for anything but an object."""
    content = read_json(path, default)
    if not isinstance(content, dict):
        raise UserError(
            f"{printable(path)} holds {shown(content)}: expected an object. Move the run's folder away and run the "
            "command again."
        )
    return content
