"""Octo's blockwise-causal attention mask, built from a table over token groups instead of a loop over token pairs."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

Side = Literal["left", "right"]


class Block(NamedTuple):
    """One group of tokens: its name (`task_*`, `obs_*` or `readout_*`) and how many tokens it has (per step)."""

    name: str
    tokens: int


def attends(query: str, key: str) -> bool:
    """Whether tokens of group `query` may look at tokens of group `key` of the same or an earlier step.

    Task tokens see task tokens; observation tokens see task and observation tokens; a readout sees those and itself.
    Nobody sees another group's readout (Octo paper, section 3.1).
    """
    kind = query.split("_", 1)[0]
    if key.startswith("task_"):
        return True
    if key.startswith("obs_"):
        return kind in ("obs", "readout")
    return kind == "readout" and key == query


def attention_mask(
    prefix: Sequence[Block], steps: Sequence[Block], history: int, *, correct: bool = True
) -> Bool[np.ndarray, "length length"]:
    """Who may attend to whom: row = query, column = key, True = allowed.

    The sequence is the prefix groups, then `history` times the step groups, L = prefix + history * step tokens.
    `correct=False` repeats the off-by-one of Octo's first release, whose weights were trained with it: the first token
    of every group but the first counted as a member of the group before it (`searchsorted(side="left")`).
    """
    group, step = _positions(prefix, steps, history, "right" if correct else "left")
    names = [block.name for block in (*prefix, *steps)]
    table = np.array([[attends(query, key) for key in names] for query in names], dtype=bool)
    return table[group[:, None], group[None, :]] & (step[None, :] <= step[:, None])


def _positions(
    prefix: Sequence[Block], steps: Sequence[Block], history: int, side: Side
) -> tuple[Int[np.ndarray, " length"], Int[np.ndarray, " length"]]:
    """For every token: the index of its group (prefix groups first) and its step (-1 for the prefix)."""
    before = sum(block.tokens for block in prefix)
    each = sum(block.tokens for block in steps)
    in_prefix = np.searchsorted(np.cumsum([block.tokens for block in prefix]), np.arange(before), side=side)
    in_step = np.searchsorted(np.cumsum([block.tokens for block in steps]), np.arange(each), side=side) + len(prefix)
    group = np.concatenate([in_prefix, np.tile(in_step, history)]).astype(np.int64)
    step = np.concatenate([np.full(before, -1), np.repeat(np.arange(history), each)])
    return group, step
