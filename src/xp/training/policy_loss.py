"""What the losses of both frameworks share: a check of the weights' names, and sums over a dump by episode."""

from collections.abc import Callable, Mapping

import numpy as np

from xp.data.dumps import Dump
from xp.errors import UserError, join_names
from xp.metrics.intervals import Sums
from xp.models.policy import Batch


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
    told = [f"{len(names)} {kind} ({join_names(names[:3])})" for kind, names in wrong.items() if names]
    if told:
        advice = "Give checkpoints of one model: merge.checkpoints=[A,B,...]"
        if any("lora_" in name for name in wrong["missing"]):
            advice = (
                "It has low-rank updates, which a merge folds into their weights: fold those of each checkpoint first "
                "(xp task=convert convert.checkpoint=A convert.to=FORMAT), and give the outcomes."
            )
        raise UserError(f"These weights are not those of the first checkpoint's policy: {'; '.join(told)}. {advice}")


def summed_by_episode(
    dump: Dump, rows: int, shape: Mapping[str, int], measure: Callable[[Batch], tuple[float, int]]
) -> Sums:
    """Sums of a loss by episode: `measure(batch)` gives the sum over at most `rows` windows and its count."""
    episodes = dump.arrays["episode_index"]
    numbers = np.unique(episodes)
    sums, counts = np.zeros(len(numbers)), np.zeros(len(numbers))
    for place, number in enumerate(numbers):
        members = np.flatnonzero(episodes == number)
        for start in range(0, len(members), rows):
            value, count = measure(dump.batch(members[start : start + rows], **shape))
            sums[place] += value
            counts[place] += count
    return Sums(episodes=numbers, sums=sums, counts=counts, windows=len(dump))
