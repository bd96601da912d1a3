"""Small LeRobot policies, data for them, and LeRobot's own way of doing the same."""

import numpy as np
import torch

from xp.models.family import BuildRequest
from xp.models.lerobot.build import build
from xp.models.policy import DataSpec, DataTransforms

CAMERAS = {"front": (32, 32, 3), "wrist": (32, 32, 3)}
DATA = DataSpec(cameras=CAMERAS, action_dim=3, state_dim=3, fps=10.0, tasks=("move",))
ACT = {
    "name": "act", "family": "lerobot", "type": "act", "dim_model": 32, "n_heads": 2, "dim_feedforward": 32,
    "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 8, "pretrained_backbone_weights": None,
}  # fmt: skip
SMOOTH = {**ACT, "name": "act_smooth", "type": "act_smooth", "length_prefix_past": 2, "length_prefix_future": 2}
DIFFUSION = {
    "name": "diffusion", "family": "lerobot", "type": "diffusion", "down_dims": [16, 32], "n_groups": 4,
    "num_inference_steps": 2, "use_group_norm": True, "pretrained_backbone_weights": None,
    "use_separate_rgb_encoder_per_camera": False, "diffusion_step_embed_dim": 16,
}  # fmt: skip


def use_narrow_backbone(monkeypatch):
    """Let `vision_backbone="resnet_narrow"` be a ResNet-18 of a quarter of the width: a fourteenth of the weights.

    For what is about training and not about pictures: LeRobot's policies look backbones up in `torchvision.models`.
    """
    import torchvision
    from torchvision.models.resnet import BasicBlock, ResNet

    class Narrow(ResNet):
        def __init__(self, weights=None, **options):
            super().__init__(BasicBlock, [2, 2, 2, 2], **options)
            self.fc = torch.nn.Linear(128, 10)  # policies read from it how many channels come out

        def _make_layer(self, block, planes, *arguments, **options):
            return super()._make_layer(block, planes // 4, *arguments, **options)

    monkeypatch.setattr(torchvision.models, "resnet_narrow", Narrow, raising=False)


def statistics(size=3):
    rng = np.random.default_rng(1)
    entry = {
        "mean": rng.normal(size=size).astype(np.float32), "std": rng.uniform(0.5, 2, size).astype(np.float32),
        "min": np.full(size, -3, np.float32), "max": np.full(size, 3, np.float32),
        "p01": np.full(size, -2, np.float32), "p99": np.full(size, 2, np.float32), "mask": np.array([True] * size),
    }  # fmt: skip
    return {"action": entry, "proprio": entry}


def deltas(lags, anchor, exclude):
    return {"mean": np.full(3, 0.1), "std": np.full(3, 0.5), "min": np.full(3, -1.0), "max": np.full(3, 1.0)}


def made(model=ACT, *, horizon=4, seed=0, data=DATA, pretrained=None, **transforms):
    found = DataTransforms(deltas=deltas, action_names=("a", "b", "gripper"), **transforms)
    place = (pretrained, None) if pretrained else None
    return build(BuildRequest(model, data, statistics(), horizon, seed, place, found))


def batch_for(spec, size=3, seed=0, cameras=CAMERAS):
    """Windows as `xp.data.Windows` gives them; the last sample ends with padding."""
    rng = np.random.default_rng(seed)
    before, ahead = spec.window
    images = {
        f"observation.images.{name}": rng.integers(0, 256, (size, spec.history, *shape), np.uint8)
        for name, shape in cameras.items()
    }
    pad = np.zeros((size, before + ahead), bool)
    pad[-1, -1] = True
    return {
        **images,
        "observation.state": rng.normal(size=(size, spec.history, 3)).astype(np.float32),
        "observation_is_pad": np.zeros((size, spec.history), bool),
        "action": rng.normal(size=(size, before + ahead, 3)).astype(np.float32),
        "action_is_pad": pad,
        "task": ["move"] * size,
        "episode_index": np.zeros(size, np.int64),
        "frame_index": np.arange(size, dtype=np.int64),
    }


def lerobot_batch(batch):
    """The same windows as `lerobot-train` would hand them to the processors of an ACT."""
    found = {
        key: torch.tensor(value[:, -1]).permute(0, 3, 1, 2).contiguous().float() / 255.0
        for key, value in batch.items()
        if key.startswith("observation.images.")
    }
    found["observation.state"] = torch.tensor(batch["observation.state"][:, -1])
    if "action" in batch:
        found |= {"action": torch.tensor(batch["action"]), "action_is_pad": torch.tensor(batch["action_is_pad"])}
    return found
