# pyright: strict
"""Where a run keeps the policies it made: `final/`, `best/` and `checkpoints/checkpoint-N/`; and what it held out."""

import re
from pathlib import Path

SPLIT = "split.json"
"""The manifest of the episodes that trained and that were held out."""
SPLITS = "splits"
"""The folder in a run of a mixture with a manifest for each dataset."""
_STEP = re.compile(r"checkpoint-([0-9]{1,18})")


def checkpoint_steps(run: str | Path) -> dict[int, Path]:
    """{step: folder} of the checkpoints in a run's folder, oldest first; empty where there are none."""
    folder = Path(run) / "checkpoints"
    entries = folder.iterdir() if folder.is_dir() else ()
    return dict(sorted((int(match[1]), entry) for entry in entries if (match := _STEP.fullmatch(entry.name))))


def candidate_policy_dirs(run: str | Path, step: int | None = None) -> list[Path]:
    """Folders that may hold a policy, best choice first: the final one, the best one, the newest step, older ones.

    `step` leaves the checkpoint of that step alone. A policy lies in the folder itself or in `policy/` of it.
    """
    steps = [folder for number, folder in reversed(checkpoint_steps(run).items()) if step in (None, number)]
    roots = steps if step is not None else [Path(run) / "final", Path(run) / "best", *steps]
    return [place for root in roots for place in (root, root / "policy")]
