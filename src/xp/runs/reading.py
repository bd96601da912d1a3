"""Read JSON files of run folders, with one clear message when a file is damaged."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xp.errors import UserError

_REQUIRED = object()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
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


def read_json(path: str | Path, default: Any = _REQUIRED) -> Any:
    """The content of a JSON file; `default` if there is no such file.

    Raises:
        UserError: the file is missing and no default is given, cannot be read, or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        if default is not _REQUIRED:
            return default
        raise UserError(
            f"There is no {path.name} in {path.parent}, so this is not a complete run folder. Give the folder of a "
            "run, such as outputs/NAME or multirun/EXPERIMENT/JOB; `xp task=status` lists the runs there are."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}). xp writes its files whole, so it was changed or cut by something "
            "else; restore it, or move the run's folder away and run the command again."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Check its permissions and try again.") from None
