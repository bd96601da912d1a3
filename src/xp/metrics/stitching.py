# pyright: strict
"""From overlapping chunks to one action a frame: which chunks count at a frame, and with what weight.

A chunk is placed at a frame (its first action's), takes over at a frame (not before it has arrived), and ends. At a
frame those chunks count that have taken over and not ended; a rule weighs them. All rules are causal: weights depend on
nothing that arrives later, so they can be used on a robot.

- last: the newest chunk alone.
- ensembling: the mean of all, weighted exp(-m i), i = 0 for the oldest, m = 0.01 ("temporal ensembling": Zhao et al.,
  "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", RSS 2023, algorithm 2).
- blend: the mean of all, weighted by a hat that rises from a chunk's take-over and falls towards its end. Divided by
  their sum the hats are a partition of unity: a chunk enters with the smallest weight and leaves with it, however many
  overlap.
- blend_two: the rule of ACT-smooth's offline replay, for comparison: only the oldest and the newest chunk, mixed by
  clip((frame - newest take-over) / (length - advance), 0, 1). With three or more chunks at a frame the oldest changes
  from one frame to the next, and the value jumps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from xp.array_types import Bools, Floats, Ints

RULES = ("last", "ensembling", "blend", "blend_two")
ENSEMBLE_DECAY = 0.01
"""m of the weights exp(-m i): ACT's published value."""


@dataclass(frozen=True)
class PlacedChunk:
    """Actions [C, A] for the frames start .. start+C-1, which count from frame `takeover` on."""

    start: int
    takeover: int
    actions: Float[Floats, "steps action"]

    @property
    def end(self) -> int:
        """The first frame for which the chunk has no action."""
        return self.start + len(self.actions)

    @property
    def is_used(self) -> bool:
        """False where the chunk arrived after its end."""
        return self.takeover < self.end


def weights(
    chunks: Sequence[PlacedChunk], first: int, last: int, rule: str, *, advance: int
) -> Float[Floats, "chunks frames"]:
    """Weight of each chunk at the frames first .. last-1, [len(chunks), last - first]; each column sums to 1, or to 0
    where no chunk counts.

    Args:
        chunks: in the order in which they took over.
        first: first frame.
        last: the frame after the last.
        rule: one of `RULES`.
        advance: frames from one query to the next; only `blend_two` asks.
    """
    assert rule in RULES, rule
    frames = np.arange(first, last)
    takeover = np.array([chunk.takeover for chunk in chunks], dtype=np.int64)[:, None]
    end = np.array([chunk.end for chunk in chunks], dtype=np.int64)[:, None]
    active = (takeover <= frames) & (frames < end)
    if rule == "ensembling":
        raw = np.where(active, np.exp(-ENSEMBLE_DECAY * (np.cumsum(active, axis=0) - 1)), 0.0)
    elif rule == "blend":
        raw = np.where(active, np.minimum(frames - takeover + 1, end - frames), 0.0)
    else:
        raw = _newest(active)
        if rule == "blend_two":
            raw = _oldest_and_newest(chunks, active, raw, frames, advance)
    total = raw.sum(axis=0)
    return raw / np.where(total > 0, total, 1.0)


def stitch(
    chunks: Sequence[PlacedChunk],
    first: int,
    last: int,
    rule: str,
    *,
    advance: int,
    before: Float[Floats, " action"],
) -> Float[Floats, "frames action"]:
    """Actions [last - first, A] at the frames first .. last-1; where no chunk active, the action before is held.

    `before` [A] is the action at frame first-1; the other arguments are those of `weights`.
    """
    chunks = [chunk for chunk in chunks if chunk.end > first and chunk.takeover < last]
    newest = _newest_or_held(chunks, first, last, before)
    if rule == "last" or not chunks:
        return newest
    result = newest.copy()
    for share, chunk in zip(weights(chunks, first, last, rule, advance=advance), chunks):
        kept = np.flatnonzero(share)
        proposed = chunk.actions[first - chunk.start + kept]
        result[kept] += share[kept, None] * (proposed - newest[kept])  # chunks that agree stay exactly as they are
    return result


def _newest_or_held(
    chunks: Sequence[PlacedChunk], first: int, last: int, before: Float[Floats, " action"]
) -> Float[Floats, "frames action"]:
    """The newest chunk's action at each frame, or the action before where no chunk counts."""
    result = np.full((last - first, len(before)), np.nan)
    for chunk in chunks:
        start = max(chunk.takeover, first)
        end = min(chunk.end, last)
        result[start - first : end - first] = chunk.actions[start - chunk.start : end - chunk.start]
    for silent in np.flatnonzero(np.isnan(result[:, 0])):
        result[silent] = result[silent - 1] if silent else before
    return result


def _newest(active: Bool[Bools, "chunks frames"]) -> Float[Floats, "chunks frames"]:
    """1 for the last chunk that counts at each frame."""
    later = np.cumsum(active[::-1], axis=0)[::-1]
    return np.where(active & (later == 1), 1.0, 0.0)


def _oldest_and_newest(
    chunks: Sequence[PlacedChunk],
    active: Bool[Bools, "chunks frames"],
    newest: Float[Floats, "chunks frames"],
    frames: Int[Ints, " frames"],
    advance: int,
) -> Float[Floats, "chunks frames"]:
    """The oldest and the newest chunk at each frame, mixed by how long the newest has been there."""
    oldest = np.where(active & (np.cumsum(active, axis=0) == 1), 1.0, 0.0)
    boundary = (newest * np.array([chunk.takeover for chunk in chunks])[:, None]).sum(axis=0)
    overlap = np.array([len(chunk.actions) for chunk in chunks])[:, None] - advance
    overlap = (newest * overlap).sum(axis=0)
    share = np.where(overlap > 0, np.clip((frames - boundary) / np.maximum(overlap, 1), 0.0, 1.0), 1.0)
    return share * newest + (1 - share) * oldest
