"""Prefixes of past and committed actions: their slots, and which attention the tokens have.

B batch, K past slots, D future slots, C chunk, A action, N branches (one per delay).
"""

from functools import lru_cache

import torch
from torch import Tensor


def build_inference_action_prefix(
    future: Tensor, past: Tensor | None, *, length_past: int, length_future: int
) -> tuple[Tensor, Tensor]:
    """Lay actions into the K + D slots: past ones end at slot K-1, committed ones begin at slot K.

    Args:
        future: Committed actions a_t .. a_{t+d-1}, [B, d, A] with 1 <= d <= D.
        past: Executed actions a_{t-k} .. a_{t-1}, [B, k, A]; of more than K the last K are taken. None: none.
        length_past: K.
        length_future: D.

    Returns:
        (actions [B, K+D, A], zero where there is none; is_pad [B, K+D] bool).

    Raises:
        ValueError: shapes that do not fit, or d outside 1..D.
    """
    if future.ndim != 3:
        raise ValueError(f"A committed prefix has the shape [B, d, A]; given {tuple(future.shape)}.")
    batch, d, width = future.shape
    if not 1 <= d <= length_future:
        raise ValueError(
            f"A prefix of {d} committed actions is not possible: this policy takes 1 to {length_future} "
            "(length_prefix_future)."
        )
    if past is not None and (past.ndim != 3 or past.shape[0] != batch or past.shape[2] != width):
        raise ValueError(
            f"Past actions have the shape [{batch}, k, {width}] beside this prefix; given {tuple(past.shape)}."
        )
    k = 0 if past is None else min(past.shape[1], length_past)
    actions = future.new_zeros(batch, length_past + length_future, width)
    is_pad = torch.ones(batch, length_past + length_future, dtype=torch.bool, device=future.device)
    if past is not None and k:
        actions[:, length_past - k : length_past] = past[:, past.shape[1] - k :]
        is_pad[:, length_past - k : length_past] = False
    actions[:, length_past : length_past + d] = future
    is_pad[:, length_past : length_past + d] = False
    return actions, is_pad


@lru_cache(maxsize=32)
def encoder_mask(shared: int, branches: int, width: int, device: torch.device) -> Tensor:
    """Which encoder tokens may not look at which: [S, S] bool, True is blocked, S = shared + branches * width.

    Shared tokens see shared tokens; each branch sees the shared tokens and itself (as the shared observation of VLASH,
    arXiv:2512.01031). What a branch computes is therefore the same whether it stands alone or beside others.
    """
    with torch.inference_mode(False):  # the kept mask may be made at inference and then serve in training
        group = torch.cat([torch.zeros(shared), torch.arange(1, branches + 1).repeat_interleave(width)]).to(device)
        return (group[None, :] != 0) & (group[None, :] != group[:, None])


@lru_cache(maxsize=32)
def decoder_masks(
    shared: int, branches: int, width: int, chunk: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """(self, cross) attention masks of N packed chunks: [NC, NC] and [NC, S] bool, True is blocked; None for N = 1."""
    if branches == 1:
        return None, None
    with torch.inference_mode(False):
        query = torch.arange(1, branches + 1).repeat_interleave(chunk).to(device)
        key = torch.cat([torch.zeros(shared), torch.arange(1, branches + 1).repeat_interleave(width)]).to(device)
        return query[:, None] != query[None, :], (key[None, :] != 0) & (key[None, :] != query[:, None])
