"""What to do where no data format knows a folder or file, or nothing is there."""

from pathlib import Path

from xp.checkpoints.reference import exists
from xp.config.dataset_facts import dataset_looks, installed_formats, missing_hint
from xp.errors import UserError
from xp.hub.inputs import origin_of

_MOST_LOOKED_AT = 1000
"""Entries of a folder that is no dataset in which one is looked for."""


def no_dataset(root: Path) -> UserError:
    """What to do where no format knows the folder or file, or nothing is there."""
    origin = origin_of(root)
    if origin and not exists(root):
        return UserError(
            f"The folder {root} is gone: it held {origin}. Give that id, and it is downloaded again: "
            f"data.root={origin}, or of task=predict and task=eval data_root={origin}"
        )
    if not exists(root):
        return UserError(
            f"There is no dataset folder {root}. "
            + (
                missing_hint(str(root))
                or f"Make one with `xp task=collect data.root={root}` (episodes of a simulated suite), or give an "
                f"existing one, data.root=<folder>: {dataset_looks()}."
            )
        )
    formats = list(installed_formats().values())
    inner = [path for path in _entries(root) if any(each.owns(path) for each in formats)]
    hint = f" It contains datasets: try data.root={inner[0]}." if inner else ""
    return UserError(
        f"{root} is no dataset of a format that xp knows ({dataset_looks()}).{hint} Give such a folder as "
        "data.root=<folder>, or make one: `xp task=collect data.root=<new folder>`."
    )


def _entries(root: Path) -> list[Path]:
    """The first entries of a folder by name; none of what is no folder or may not be listed."""
    try:
        return sorted(root.iterdir())[:_MOST_LOOKED_AT]
    except OSError:
        return []
