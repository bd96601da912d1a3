# pyright: strict
"""Replaying a recorded episode as if a policy drove it: its queries, its delayed answers, what is executed.

The observations are the recorded ones, whatever is executed, so this is a test of how chunks follow each other, not of
control. Three modes differ in what the policy gets as its own past and future:

- ground_truth: the demonstration's actions are the prefix (ACT-smooth's offline replay). A jump at a boundary is then
  the old chunk's open-loop error plus the new chunk's first error, for every chunk starts from the truth.
- self_chained: what the replay itself executed and has committed to is the prefix, as on a robot.
- delayed: self-chained, and every answer takes `delay` frames and a seeded extra of 0..`jitter`. Meanwhile the active
  chunk goes on; beyond its end its last action is held. An answer that is late loses its first actions.

One query is in flight at a time. At frame t the policy is queried; a policy that takes prefixes gets `prefix_len`
committed actions from t on and its chunk begins after them; another begins at t. Before the first chunk the
demonstration acts, and the first answer is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from xp.array_types import Floats, Ints
from xp.metrics.stitching import PlacedChunk, stitch

MODES = {
    "ground_truth": "ground-truth prefix",
    "self_chained": "self-chained prefix",
    "delayed": "self-chained prefix, delayed answers",
}
"""Modes by name, and what to call them."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How chunks are asked for and executed. All numbers are frames; `rule` is one of `stitching.RULES`."""

    rule: str
    steps: int
    """Actions executed of a chunk before the next query; for ensembling: how many of a chunk's actions count."""
    past: int = 0
    """K: executed actions that the policy gets."""
    prefix_len: int = 0
    """d: committed actions that the policy gets; its chunk begins after them."""
    delay: int = 0
    jitter: int = 0

    @property
    def advance(self) -> int:
        """Frames from one query to the next; ensembling asks at every frame."""
        return 1 if self.rule == "ensembling" else self.steps


@dataclass(frozen=True, kw_only=True)
class Query:
    """At frame `frame`: committed actions `prefix` [d, A] from it on, executed actions `past` [K, A] before it."""

    frame: int
    prefix: Float[Floats, "prefix_len action"]
    past: Float[Floats, "past action"]
    held: Float[Floats, " action"]
    """The last action known at this moment [A]: what holding still would go on with."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What was executed from frame `first` of an episode on, x [F, A], and where chunks took over.

    `episode` [L, A] are all demonstrated actions. `boundaries` count from `first`; the first chunk's own start is none.
    `chunks` are all answers, in frames of the episode.
    """

    first: int
    x: Float[Floats, "frames action"]
    episode: Float[Floats, "length action"]
    boundaries: Int[Ints, " boundaries"]
    chunks: tuple[PlacedChunk, ...]
    discarded: int = 0
    """Answers that arrived after their own end."""

    @property
    def truth(self) -> Float[Floats, "frames action"]:
        """What was demonstrated at the frames of `x` [F, A]."""
        return self.episode[self.first : self.first + len(self.x)]


@dataclass
class ReplayStream:
    """One episode in one mode. Call `query()` until it gives None, each time handing the chunk to `answer`."""

    truth: Float[Floats, "frames action"]
    """The demonstrated actions of the whole episode [F, A]."""
    mode: str
    execution: Execution
    horizon: int
    """C: actions in a chunk."""
    seed: Sequence[int] = (0,)
    """Of the jitter: the run's seed and the episode."""
    chunks: list[PlacedChunk] = field(default_factory=list[PlacedChunk])

    def __post_init__(self):
        assert self.mode in MODES, self.mode
        self._x = np.asarray(self.truth, dtype=np.float64).copy()
        self._frame = first_query(self.execution)
        self._final = self._frame + self.execution.prefix_len
        self._draw = np.random.default_rng(list(self.seed))
        self._first = self._final

    @property
    def is_possible(self) -> bool:
        """Whether the episode is long enough for one chunk: K + d + C frames and one more."""
        return is_long_enough(len(self.truth), self.execution, self.horizon)

    def query(self) -> Query | None:
        """The next query to the policy; None at the end."""
        execution, frame = self.execution, self._frame
        if frame + execution.prefix_len + self.horizon >= len(self.truth):
            return None
        self._execute_until(frame + execution.prefix_len)
        known = self._x if self.mode != "ground_truth" else np.asarray(self.truth, dtype=np.float64)
        prefix = known[frame : frame + execution.prefix_len]
        past = known[frame - execution.past : frame]
        held = known[max(frame + execution.prefix_len - 1, 0)]
        return Query(frame=frame, prefix=prefix.copy(), past=past.copy(), held=held.copy())

    def answer(self, chunk: Float[Floats, "horizon action"]) -> None:
        """Take the chunk [C, A] that the last query gave; its first action is that of frame `frame + prefix_len`."""
        execution, frame = self.execution, self._frame
        wait = self._wait()
        start = frame + execution.prefix_len
        count = execution.steps if execution.rule == "ensembling" else len(chunk)
        placed = PlacedChunk(start, max(start, frame + wait), np.asarray(chunk, dtype=np.float64)[:count])
        self.chunks.append(placed)
        self._frame += max(execution.advance, wait)

    def trace(self) -> Trace:
        """What was executed, once `query` has given None: up to where the last chunk would have been replaced."""
        used = [chunk for chunk in self.chunks if chunk.is_used]
        last = self.chunks[-1]
        length = len(last.actions) if self.execution.rule.startswith("blend") else self.execution.advance
        end = last.start + min(length, len(last.actions))
        self._execute_until(end)
        boundaries = [chunk.takeover - self._first for chunk in used[1:] if chunk.takeover < end]
        return Trace(
            first=self._first,
            x=self._x[self._first : end],
            episode=np.asarray(self.truth, dtype=np.float64),
            boundaries=np.array(boundaries, dtype=np.int64),
            chunks=tuple(self.chunks),
            discarded=len(self.chunks) - len(used),
        )

    def _wait(self) -> int:
        """Frames until the answer arrives."""
        if self.mode != "delayed" or not self.chunks:
            return 0
        return self.execution.delay + int(self._draw.integers(0, self.execution.jitter + 1))

    def _execute_until(self, frame: int) -> None:
        """Execute the frames up to `frame`: nothing that arrives later can change them."""
        if frame <= self._final:
            return
        before = self._x[self._final - 1] if self._final else self._x[0]
        used = [chunk for chunk in self.chunks if chunk.is_used]
        self._x[self._final : frame] = stitch(
            used, self._final, frame, self.execution.rule, advance=self.execution.advance, before=before
        )
        self._final = frame


def is_long_enough(length: int, execution: Execution, horizon: int) -> bool:
    """Whether an episode of `length` frames takes one chunk: past, prefix, the chunk's C = `horizon`, and one more."""
    return first_query(execution) + execution.prefix_len + horizon < length


def first_query(execution: Execution) -> int:
    """The frame of the first query: as soon as K actions, and at least one that can be held, are known."""
    return max(execution.past, 1 - execution.prefix_len)
