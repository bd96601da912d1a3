"""The action that keeps a robot in its place: its state, read as an action.

For robots whose states and actions are the same joints.
"""

import numpy as np
import torch
from lerobot.configs import FeatureType
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig
from lerobot_policy_act_smooth_xp.statistics import Statistics, action_slope


def hold_affine(config: ACTSmoothConfig, stats: Statistics | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """(scale, offset), each [A]: normalised action = normalised state * scale + offset, for the same joint positions.

    With state' = state k + c and action' = action l + d it is l / k and d - c l / k. None where states are no actions
    or their statistics are not known.
    """
    state, action = (_normaliser(config, stats, *pair) for pair in ((OBS_STATE, "STATE"), (ACTION, "ACTION")))
    if state is None or action is None or len(state[0]) != len(action[0]):
        return None, None
    ratio = action[0] / state[0]
    scale, offset = ratio, action[1] - state[1] * ratio
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        return None, None
    return torch.tensor(scale, dtype=torch.float32), torch.tensor(offset, dtype=torch.float32)


def _normaliser(
    config: ACTSmoothConfig, stats: Statistics | None, key: str, kind: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, offset) of LeRobot's normaliser of a feature: normalised = value * scale + offset."""
    mode = config.normalization_mapping.get(FeatureType[kind].value)
    features = {**(config.input_features or {}), **(config.output_features or {})}
    if not stats or key not in stats or key not in features or mode is None:
        return None
    entry = {name: np.asarray(value, dtype=np.float64).reshape(-1) for name, value in stats[key].items()}
    scale = action_slope(entry, mode.name) * np.ones(features[key].shape[0])
    low = {"MIN_MAX": "min", "QUANTILES": "q01", "QUANTILE10": "q10"}.get(mode.name)
    if mode.name == "MEAN_STD":
        return scale, -entry["mean"] * scale
    return scale, np.zeros_like(scale) if low is None else -1 - entry[low] * scale
