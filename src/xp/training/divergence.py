"""The error for a loss or a gradient that is NaN or infinite."""

from collections.abc import Iterable
from typing import SupportsInt

from xp.errors import UserError


class TrainingDiverged(UserError):  # noqa: N818 - a run's ending, named as people say it
    """The loss or its gradient became NaN or infinite. Nothing was written after the last good checkpoint."""

    exit_code = 1

    def __init__(self, message: str, *, step: int, episodes: tuple[int, ...] = ()):
        super().__init__(message)
        self.step = step
        self.episodes = episodes


def diverged(
    *, step: int, what: str, episodes: Iterable[SupportsInt], kept: str | None, rate: float, clip_norm: float | None
) -> TrainingDiverged:
    """The error for a first bad update.

    Args:
        step: the update (counted from 1) at which the first bad number appeared.
        what: which number it was, e.g. 'loss is nan'.
        episodes: episode ids in that update's batch.
        kept: the last good checkpoint, relative to the run folder, or None.
        rate: learning rate of that update.
        clip_norm: the present `trainer.clip_norm`.
    """
    ids = tuple(sorted({int(episode) for episode in episodes}))
    last = f"The last good checkpoint is kept: {kept}." if kept else "There was no checkpoint yet."
    clip = "trainer.clip_norm=1.0" if clip_norm is None else f"a smaller trainer.clip_norm (now {clip_norm:g})"
    return TrainingDiverged(
        f"Training stopped at step {step}: the {what}. The batch held windows of episodes {', '.join(map(str, ids))}. "
        f"{last} Look at the actions of those episodes, or try a lower lr.peak (the rate was {rate:g}), a longer "
        f"lr.warmup_steps, or {clip}.",
        step=step,
        episodes=ids,
    )
