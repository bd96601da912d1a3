"""Actions relative to an anchor, inside the policy.

The policy takes and gives actions as LeRobot's normaliser leaves them (absolute). Inside, x becomes
(x - anchor - mean) / std, with mean and std of differences in the same normalised units. So nothing outside has to
know about anchors: not the processors, not a queue of left-over actions.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig
from lerobot_policy_act_smooth_xp.statistics import (
    STATISTICS_KEY,
    Statistics,
    action_slope,
    delta_statistics,
    read_actions,
)

_STILL = 1e-6
"""A dimension whose differences spread less than this part of its own spread never moves: it keeps scale 1."""


class HasRoot(Protocol):
    """The part of LeRobot's dataset metadata that is read here."""

    root: Path


def branch_anchors(config: ACTSmoothConfig, future: Tensor) -> Tensor:
    """What the branch of each delay 1..D is relative to: [B, D, A] from committed actions [B, D, A]."""
    if not (config.relative_actions or config.use_action_relative):
        return torch.zeros_like(future)
    if config.relative_actions and config.relative_anchor == "last_prefix":
        return future
    return future[:, :1].expand_as(future)


def dataset_deltas(config: ACTSmoothConfig, stats: Statistics | None, meta: HasRoot | None) -> tuple[Tensor, Tensor]:
    """(mean, std) [A] of differences in normalised action units, from statistics or else from a dataset.

    Args:
        config: Of the policy; `relative_actions` is on.
        stats: LeRobot's statistics; `action_delta` in them (see `delta_statistics`) is in dataset units.
        meta: LeRobot's dataset metadata; read only where the statistics lack `action_delta`.

    Raises:
        ValueError: neither gives statistics of differences, or their width is not that of the actions.
    """
    delta = (stats or {}).get(STATISTICS_KEY)
    if not stats or "action" not in stats or (delta is None and meta is None):
        raise ValueError(
            "act_smooth: relative_actions=true needs statistics of action differences, and these statistics have none: "
            f"their keys are {sorted(stats or {})}. Give them as dataset_stats['{STATISTICS_KEY}'] = "
            "lerobot_policy_act_smooth_xp.delta_statistics(actions, episode_index, config.delta_lags, episodes=...), "
            "beside dataset_stats['action']; or give dataset_meta; or set relative_actions=false."
        )
    if delta is None:
        assert meta is not None
        actions, episodes = read_actions(meta.root)
        delta = delta_statistics(actions, episodes, config.delta_lags, episodes=config.relative_episodes)
    slope = action_slope(stats["action"], config.normalization_mapping["ACTION"].name)
    mean, std = (np.asarray(delta[name], dtype=np.float64).reshape(-1) * slope for name in ("mean", "std"))
    width = config.action_dim
    if mean.shape != (width,) or std.shape != (width,):
        raise ValueError(
            f"act_smooth: the statistics of action differences have {len(mean)} dimensions, the actions {width}."
        )
    own = np.asarray(stats["action"].get("std", std), dtype=np.float64).reshape(-1) * slope
    std = np.where(std > _STILL * own, std, 1.0)
    return torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(std, dtype=torch.float32)
