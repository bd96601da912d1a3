"""A model in torch small enough to train in a test: dropout, batch normalisation and an unused weight included."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from training_fakes import ACTION, HORIZON, SPEC, STATE

from xp.models.policy import Policy
from xp.models.trainable import TorchTrainable


class Mlp(torch.nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.trunk = torch.nn.Linear(STATE, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.dropout = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(width, HORIZON * ACTION)
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(torch.tanh(self.norm(self.trunk(state))))).reshape(-1, HORIZON, ACTION)


class TorchPolicy(Policy):
    spec = SPEC

    def __init__(self, module: Mlp, weights: dict | None):
        self._weights = {name: t.clone() for name, t in (weights or module.state_dict()).items()}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._weights.items()}

    def save(self, folder: Path) -> None:
        save_file(self.weights(), Path(folder) / "policy.safetensors")


def torch_trainable(width: int = 8, seed: int = 0, **options) -> TorchTrainable:
    torch.manual_seed(seed)
    module = Mlp(width)

    def prepare(batch):
        return {
            "state": torch.from_numpy(batch["observation.state"][:, -1]),
            "action": torch.from_numpy(batch["action"]),
            "task": list(batch["task"]),
        }

    def loss(inputs):
        value = ((module(inputs["state"]) - inputs["action"]) ** 2).mean()
        return value, {"mse": value.detach()}

    return TorchTrainable(
        spec=SPEC, module=module, loss=loss, prepare=prepare, policy=lambda w: TorchPolicy(module, w), **options
    )
