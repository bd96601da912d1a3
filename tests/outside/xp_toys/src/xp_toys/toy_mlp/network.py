"""The network of `toy_mlp`."""

import torch
from torch import nn


class ToyMlp(nn.Module):
    """Pictures [B, T, 3, h, w] and states [B, T, S] to a chunk [B, H, A], normalised."""

    def __init__(self, spec, *, width, dropout, activation):
        super().__init__()
        act = {"relu": nn.ReLU, "gelu": nn.GELU}[activation]
        self.spec, channels = spec, 16
        self.eyes = nn.ModuleDict({name: self._eye(channels, act) for name in spec.cameras})
        features = spec.history * (2 * channels * len(spec.cameras) + spec.state_dim + spec.environment_dim)
        self.body = nn.Sequential(
            nn.Linear(features, width), act(), nn.Dropout(dropout), nn.Linear(width, width), act(),
            nn.Linear(width, spec.horizon * spec.action_dim),
        )  # fmt: skip

    @staticmethod
    def _eye(channels, act):
        return nn.Sequential(
            nn.Conv2d(3, channels, 5, stride=2, padding=2), act(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, inputs):
        """The chunk: where each channel is brightest (a spatial softmax) and the numbers, through the perceptron."""
        seen = [
            inputs[key].flatten(1) for key in ("observation.state", "observation.environment_state") if key in inputs
        ]
        for name, eye in self.eyes.items():
            pictures = inputs[f"observation.images.{name}"]
            seen.append(_places(eye(pictures.flatten(0, 1))).unflatten(0, pictures.shape[:2]).flatten(1))
        return self.body(torch.cat(seen, 1)).unflatten(1, (self.spec.horizon, self.spec.action_dim))


def _places(maps):
    """Expected places of [N, C, h, w] feature maps as [N, 2 C], from -1 to 1 (Levine et al. 2016)."""
    weights = maps.flatten(2).softmax(-1).unflatten(2, maps.shape[2:])
    down, across = (torch.linspace(-1, 1, size, device=maps.device) for size in maps.shape[2:])
    return torch.cat([(weights.sum(3) * down).sum(2), (weights.sum(2) * across).sum(2)], 1)
