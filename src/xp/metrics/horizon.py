# pyright: strict
"""A model trained on one horizon, asked for another: cut the chunk, hold its last action, or ask the model again.

`requery` is pure index arithmetic: which frames to ask, and which of the answered actions stands at which step. It uses
the recorded observations of later frames, so beyond the trained horizon it measures replanning, not foresight.
"""

from typing import Literal

import numpy as np
from jaxtyping import Int, Num

from xp.array_types import Ints, Numbers
from xp.errors import UserError, did_you_mean, join_names

Extend = Literal["hold_last", "requery"]
EXTENDS: tuple[str, ...] = ("hold_last", "requery")


def extend(
    predictions: Num[Numbers, "windows trained action"], horizon: int
) -> Num[Numbers, "windows {horizon} action"]:
    """Bring chunks [N, h, A] to `horizon` steps: cut when shorter, repeat the last action when longer.

    This is the rule of the first multi-horizon experiments with Octo (`octo_multi_horizon`).
    """
    check_horizon(horizon)
    trained = predictions.shape[1]
    return predictions[:, np.minimum(np.arange(horizon), trained - 1)]


def requery_frames(
    starts: Int[Ints, " windows"], last: Int[Ints, " windows"], *, trained: int, horizon: int
) -> Int[Ints, "windows queries"]:
    """Frames to ask [N, K], K = ceil(horizon / trained): t, t + h, t + 2h, ... never past the episode's `last` frame.

    `starts` [N] and `last` [N] are row numbers of one numbering. Where a frame was cut to `last`, all steps it answers
    lie past the episode's end and are padding.
    """
    check_horizon(horizon)
    queries = -(-horizon // trained)
    frames = np.asarray(starts)[:, None] + trained * np.arange(queries)
    return np.minimum(frames, np.asarray(last)[:, None])


def join_answers(
    chunks: Num[Numbers, "windows queries trained action"], horizon: int
) -> Num[Numbers, "windows {horizon} action"]:
    """Join the answers [N, K, h, A] of `requery_frames` into one prediction [N, horizon, A]."""
    num, queries, trained, action_dim = chunks.shape
    assert queries * trained >= horizon, f"{queries} chunks of {trained} steps cannot fill {horizon}"
    return chunks.reshape(num, queries * trained, action_dim)[:, :horizon]


def check_horizon(horizon: int) -> None:
    """Raise UserError unless a horizon has at least one step."""
    if horizon < 1:
        raise UserError(
            f"horizon.predict={horizon}: a horizon counts future actions, so it must be 1 or more. "
            "Type horizon.predict=4"
        )


def check_extend(name: str) -> None:
    """Raise UserError unless `name` is a way to extend a chunk."""
    if name not in EXTENDS:
        raise UserError(
            f"horizon.extend={name} is unknown{did_you_mean(name, EXTENDS)}. Allowed: "
            f"{join_names(EXTENDS)} (a shorter horizon "
            "is always cut). Type horizon.extend=hold_last"
        )
