"""Windows that reach further ahead than any episode goes."""

from pathlib import Path

import numpy as np

from xp.errors import UserError


def refuse_padded(ahead: int, lengths: np.ndarray, root: Path, *, start: str, instead: str) -> None:
    """Refuse windows that reach `ahead` actions ahead where no episode is that long: all of them would be padded.

    Args:
        ahead: actions from the observed step on.
        lengths: of the training episodes, in steps.
        root: the dataset's.
        start: what the message begins with, the article of "training window" last.
        instead: what else can be done.

    Raises:
        UserError: with the longest horizon that makes sense.
    """
    if ahead > lengths.max():
        raise UserError(
            f"{start} training window reaches {ahead} actions ahead; the longest training episode of {root} has "
            f"{int(lengths.max())} steps, so every window would be padded. Type for instance "
            f"horizon.train={max(1, int(lengths.min()) // 2)}, or {instead}."
        )
