"""Refuses numbers of a dataset that are not finite."""

from pathlib import Path

import numpy as np

from xp.errors import UserError

_BLOCK = 1 << 18
"""Rows looked at together: what is fine needs no second copy in memory."""


def check_finite(
    root: Path, what: str, values: np.ndarray, names: tuple[str, ...], episode: np.ndarray, frame: np.ndarray, mend: str
) -> None:
    """Refuse NaN and infinity in `values` [N, D], naming the first place.

    Args:
        root: the dataset.
        what: the key of the values, for the message.
        values: the numbers.
        names: of the dimensions [D].
        episode: of each row [N].
        frame: of each row [N].
        mend: what to do about it, as the end of a sentence: "remove those episodes with ...".

    Raises:
        UserError: with the episode, the frame, the dimension and how many frames are affected.
    """
    if all(np.isfinite(values[at : at + _BLOCK]).all() for at in range(0, len(values), _BLOCK)):
        return
    bad = ~np.isfinite(values)
    row, dim = (int(i) for i in np.argwhere(bad)[0])
    raise UserError(
        f"The {what} of {root} holds {values[row, dim]} at episode {episode[row]}, frame {frame[row]}, dimension {dim} "
        f"({names[dim]}); {int(bad.any(axis=1).sum())} frames of episodes "
        f"{_some(np.unique(episode[bad.any(axis=1)]))} are affected. Training on it would destroy the weights: {mend}."
    )


def _some(numbers: np.ndarray, most: int = 8) -> str:
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown + (f", ... ({len(numbers)} in all)" if len(numbers) > most else "")
