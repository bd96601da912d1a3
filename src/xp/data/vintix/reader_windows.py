"""Which rows the original reader's training windows hold: `FoundationMapDataset` of github.com/dunnolab/vintix.

A window is `context + 1` rows of one history; its sample is observation, step and target action of rows 1 .. context,
and action and reward of the rows before them. Windows run over the rows of the attempts that are kept, so one may jump
over attempts that are left out.
"""

import numpy as np
from jaxtyping import Bool, Int

from xp.errors import UserError


def kept_rows(
    step: Int[np.ndarray, " rows"], *, ep_sparsity: int = 1, episode_range: tuple[float, float] | None = None
) -> Int[np.ndarray, " kept"]:
    """Rows of a history whose attempts are kept: every `ep_sparsity`-th of those in a range.

    Args:
        step: number of each row in its attempt, 0 where one begins.
        ep_sparsity: keep attempts 0, k, 2k, ...; what stands before the first 0 counts as an attempt.
        episode_range: two fractions of the history's rows (the quadruped fork's rule): from the attempt in which the
            first lies to the end of the attempt in which the second lies.
    """
    if ep_sparsity < 1 or (episode_range is not None and not 0 <= episode_range[0] < episode_range[1] <= 1):
        raise UserError(
            f"ep_sparsity={ep_sparsity}, episode_range={episode_range}: expected a whole number of at least 1, and two "
            "ascending fractions from 0 to 1, such as (0.0, 0.1)."
        )
    rows = np.arange(len(step))
    if episode_range is not None:
        rows = rows[_in_range(step, episode_range)]
    attempt = np.cumsum(step[rows] == 0)
    return rows[(attempt - attempt[:1]) % ep_sparsity == 0]


def reader_windows(
    step: Int[np.ndarray, " rows"],
    *,
    context: int,
    trajectory_sparsity: int,
    ep_sparsity: int = 1,
    last_frac: float | None = None,
    episode_range: tuple[float, float] | None = None,
) -> Int[np.ndarray, "windows length"]:
    """Row numbers of each window of one history, as the original reader takes them.

    Of N kept rows, windows start at 0, s, 2s, ... below N - (context + 1): the last possible start is never used.

    Args:
        step: number of each row in its attempt, 0 where one begins.
        context: tokens of a sample; a window has one row more.
        trajectory_sparsity: s, kept rows from one start to the next.
        ep_sparsity: see `kept_rows`.
        last_frac: keep windows that start in this last fraction of the history; without meaning beside a range.
        episode_range: see `kept_rows`.
    """
    kept = kept_rows(step, ep_sparsity=ep_sparsity, episode_range=episode_range)
    starts = np.arange(0, max(len(kept) - (context + 1), 0), trajectory_sparsity)
    windows = kept[starts[:, None] + np.arange(context + 1)]
    if last_frac is None or episode_range is not None:
        return windows
    return windows[windows[:, 0] >= (len(step) - 1) * (1 - last_frac)]


def _in_range(step: Int[np.ndarray, " rows"], fractions: tuple[float, float]) -> Bool[np.ndarray, " rows"]:
    """Rows from the beginning of the attempt that holds the first bound to the end of the one at the second.

    A second bound on the first row of an attempt ends before it.
    """
    total = len(step)
    begins = np.flatnonzero(step == 0)
    first, last = int(total * fractions[0]), int(total * fractions[1])
    before, after = begins[begins <= first], begins[begins >= last]
    start = int(before[-1]) if len(before) else 0
    stop = int(after[0]) if len(after) and last < total else total
    rows = np.arange(total)
    return (rows >= start) & (rows < stop)
