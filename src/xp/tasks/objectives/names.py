"""Weights that an objective is given must be those of its policy."""

from collections.abc import Mapping

import numpy as np

from xp.errors import UserError, listing


def refuse_other_names(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights whose names or shapes are not the policy's.

    Raises:
        UserError: naming the first few of each kind.
    """
    wrong = {
        "missing": [name for name in shapes if name not in weights],
        "unknown": [name for name in weights if name not in shapes],
        "of another shape": [name for name, array in weights.items() if shapes.get(name, array.shape) != array.shape],
    }
    told = [f"{len(names)} {kind} ({listing(names[:3])})" for kind, names in wrong.items() if names]
    if told:
        raise UserError(
            f"These weights are not those of the first checkpoint's policy: {'; '.join(told)}. Give checkpoints of one "
            "model: merge.checkpoints=[A,B,...]"
        )
