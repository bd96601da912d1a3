"""The processors of `act_smooth`: LeRobot's own, and the action that holds the robot in its place."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lerobot.configs import FeatureType
from lerobot.lerobot_types import PolicyAction
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.factory import make_default_policy_processor_steps, make_policy_processor_pipelines

from lerobot_policy_act_smooth.configuration_act_smooth import ACTSmoothConfig
from lerobot_policy_act_smooth.statistics import action_slope
from lerobot_policy_act_smooth.steps import HoldActionStep


def make_act_smooth_pre_post_processors(
    config: ACTSmoothConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Rename, batch, device, hold action, normalise; and un-normalise, CPU.

    Actions are normalised as absolute ones whatever `relative_actions` says: the policy takes differences inside.
    """
    steps = make_default_policy_processor_steps(config, dataset_stats, normalizer_device=config.device)
    hold = HoldActionStep(**_hold_affine(config, dataset_stats))
    return make_policy_processor_pipelines(
        input_steps=[steps.rename_observations, steps.add_batch_dim, steps.to_device, hold, steps.normalize],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )


def _hold_affine(
    config: ACTSmoothConfig, stats: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, np.ndarray] | dict[str, None]:
    """{scale, offset} [A] of the normaliser of actions: normalised = action * scale + offset."""
    mode = config.normalization_mapping.get(FeatureType.ACTION.value)
    if not stats or "action" not in stats or mode is None:
        return {"scale": None, "offset": None}
    action = {name: np.asarray(value, dtype=np.float64).reshape(-1) for name, value in stats["action"].items()}
    scale = action_slope(action, mode.name) * np.ones(config.action_dim)
    low = {"MIN_MAX": "min", "QUANTILES": "q01", "QUANTILE10": "q10"}.get(mode.name)
    if mode.name == "MEAN_STD":
        offset = -action["mean"] * scale
    else:
        offset = np.zeros_like(scale) if low is None else -1 - action[low] * scale
    return {"scale": scale, "offset": offset}
