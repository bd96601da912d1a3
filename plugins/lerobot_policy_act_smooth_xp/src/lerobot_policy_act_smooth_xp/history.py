"""What a policy remembers between calls: which actions were executed, and which are planned.

All actions are normalised ones, [B, n, A].
"""

from collections import deque

import torch
from torch import Tensor


class ActionQueue:
    """Planned actions of `select_action`, and the K executed last."""

    def __init__(self, length_past: int) -> None:
        self.planned: deque[Tensor] = deque()
        self._past: deque[Tensor] = deque(maxlen=length_past)

    def plan(self, actions: Tensor) -> None:
        """Add actions [B, n, A] behind the planned ones."""
        self.planned.extend(actions.unbind(1))

    def execute(self) -> Tensor:
        """Take the next planned action [B, A] and remember it as executed."""
        action = self.planned.popleft()
        self._past.append(action)
        return action

    @property
    def past(self) -> Tensor | None:
        """The executed actions [B, k, A], k <= K, oldest first; None before the first."""
        return torch.stack(list(self._past), dim=1) if self._past else None


class Timeline:
    """What a real-time-chunking engine executed of the chunks that it was given.

    The engine tells neither the executed actions nor how many of the left-over rows are real: it cuts the left-over to
    a fixed length or fills it with zeros. Both follow from the place of the left-over in the chunk given last. (If an
    inference took longer than the committed prefix, the actions executed meanwhile came from the chunk before, and the
    history holds the newer chunk's in their place.)
    """

    def __init__(self, length_past: int) -> None:
        self.length_past = length_past
        self._past: Tensor | None = None
        self._chunk: Tensor | None = None

    def give(self, past: Tensor | None, chunk: Tensor) -> None:
        """Remember a chunk [B, L, A] that begins at the present step, and what was executed before it."""
        self._past, self._chunk = past, chunk

    def locate(self, left_over: Tensor) -> tuple[Tensor, Tensor | None]:
        """Find the present step.

        Args:
            left_over: Unexecuted rows of the last chunk, [E, A] or [B, E, A], cut or zero-filled to E rows.

        Returns:
            (planned actions from the present step on [B, m, A] with m >= 1, executed actions before it [B, k, A] or
            None). When nothing is planned the robot holds the last action: it stands as the one planned action.
            Rows that come from elsewhere are taken as they are, up to the last that is not zero.
        """
        rows = left_over if left_over.ndim == 3 else left_over[None]
        chunk = self._chunk
        place = None if chunk is None or chunk.shape[0] != rows.shape[0] else _find(chunk, rows)
        if chunk is None or place is None:
            used = int((rows != 0).any(-1).any(0).nonzero().max()) + 1 if bool((rows != 0).any()) else 1
            return rows[:, :used], None
        executed = chunk[:, :place] if self._past is None else torch.cat([self._past, chunk[:, :place]], dim=1)
        planned = chunk[:, place:] if place < chunk.shape[1] else chunk[:, -1:]
        past = executed[:, max(0, executed.shape[1] - self.length_past) :]
        return planned, past if past.shape[1] else None


def _find(chunk: Tensor, rows: Tensor) -> int | None:
    """The first place 0..L of chunk [B, L, A], followed by zeros, where rows [B, E, A] stand; None if nowhere."""
    rows = rows.to(chunk)
    if rows.shape[1] == 0:
        return chunk.shape[1]
    filled = torch.cat([chunk, chunk.new_zeros(chunk.shape[0], rows.shape[1], chunk.shape[2])], dim=1)
    windows = filled.unfold(1, rows.shape[1], 1).transpose(2, 3)
    same = (windows == rows[:, None]).flatten(2).all(-1).all(0).nonzero()
    return int(same[0]) if len(same) else None
