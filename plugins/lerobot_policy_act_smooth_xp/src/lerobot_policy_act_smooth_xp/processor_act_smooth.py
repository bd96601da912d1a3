"""The processors of `act_smooth`: LeRobot's own."""

from typing import Any

from lerobot.lerobot_types import PolicyAction
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.factory import make_default_policy_processor_steps, make_policy_processor_pipelines

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig


def make_act_smooth_pre_post_processors(
    config: ACTSmoothConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Rename, batch, device, normalise; and un-normalise, CPU: LeRobot's own steps, as the first ACT-smooth has them.

    Actions are normalised as absolute ones whatever `relative_actions` says: the policy takes differences inside.
    """
    steps = make_default_policy_processor_steps(config, dataset_stats, normalizer_device=config.device)
    return make_policy_processor_pipelines(
        input_steps=[steps.rename_observations, steps.add_batch_dim, steps.to_device, steps.normalize],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )
