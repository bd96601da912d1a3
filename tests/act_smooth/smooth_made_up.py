"""Small act_smooth policies and batches for them."""

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig
from lerobot_policy_act_smooth_xp.modeling_act_smooth import ACTSmoothPolicy

ACTION_DIM = 3


def features(cameras=(), state=ACTION_DIM, environment=4):
    inputs = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for name in cameras}
    if state:
        inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (state,))
    if environment:
        inputs["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (environment,))
    return inputs


def make_config(*, cameras=(), state=ACTION_DIM, environment=4, **changes):
    small = {
        "dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 2, "use_vae": False, "latent_dim": 4,
        "n_vae_encoder_layers": 1, "chunk_size": 6, "n_action_steps": 4, "length_prefix_past": 2,
        "length_prefix_future": 3, "pretrained_backbone_weights": None, "device": "cpu", "dropout": 0.0,
        "push_to_hub": False,
    }  # fmt: skip
    return ACTSmoothConfig(
        input_features=features(cameras, state, environment),
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
        **(small | changes),
    )


def delta_stats(scale=0.1):
    """Statistics as LeRobot gives them, with those of differences."""
    ones = np.ones(ACTION_DIM)
    return {
        "action": {"mean": 5 * ones, "std": 2 * ones, "min": 0 * ones, "max": 10 * ones},
        "observation.state": {"mean": 5 * ones, "std": 4 * ones},
        "action_delta": {"mean": 0.3 * ones, "std": scale * ones},
    }


def make_policy(seed=0, stats=None, **changes):
    """A policy with weights away from their initial values, so that padding tokens and positions matter."""
    torch.manual_seed(seed)
    config = make_config(**changes)
    policy = ACTSmoothPolicy(config, dataset_stats=stats or (delta_stats() if config.relative_actions else None))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy.eval()


def make_batch(policy, size=2, seed=0):
    """A normalised training batch without padding."""
    random = torch.Generator().manual_seed(seed)
    config = policy.config
    batch = {
        name: torch.randn(size, *feature.shape, generator=random) for name, feature in config.input_features.items()
    }
    steps = len(config.action_delta_indices)
    batch["action"] = torch.randn(size, steps, ACTION_DIM, generator=random).cumsum(1)
    batch["action_is_pad"] = torch.zeros(size, steps, dtype=torch.bool)
    return batch
