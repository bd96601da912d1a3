"""The processors of `act_smooth`: LeRobot's own."""

from lerobot.lerobot_types import PolicyAction
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.factory import make_default_policy_processor_steps, make_policy_processor_pipelines
from torch import Tensor

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig

Batch = dict[str, Tensor | list[str]]
"""Tensors [B, ...] under LeRobot's keys, and B texts under `task`."""


def make_act_smooth_pre_post_processors(
    config: ACTSmoothConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[PolicyProcessorPipeline[Batch, Batch], PolicyProcessorPipeline[PolicyAction, PolicyAction]]:
    """Rename, batch, device, normalise; and un-normalise, CPU: LeRobot's own steps, as the first ACT-smooth has them.

    Actions are normalised as absolute ones whatever `relative_actions` says: the policy takes differences inside.
    """
    steps = make_default_policy_processor_steps(config, dataset_stats, normalizer_device=config.device)
    return make_policy_processor_pipelines(
        input_steps=[steps.rename_observations, steps.add_batch_dim, steps.to_device, steps.normalize],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )
