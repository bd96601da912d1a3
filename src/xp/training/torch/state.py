"""What a torch update changes: weights, AdamW's memory, the moving average and the running loss, as named arrays."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from xp.errors import UserError
from xp.models.trainable import TorchTrainable
from xp.training.options import TrainerOptions
from xp.training.partition import Partition, matching, split
from xp.training.torch.distributed import shard_like


def partition_of(trainable: TorchTrainable, options: TrainerOptions) -> Partition:
    """Which weights are trained; the others lose `requires_grad`, and their batch statistics stand still.

    Raises:
        UserError: a freeze pattern that matches nothing, or nothing left to train.
    """
    named = dict(trainable.module.named_parameters())
    own = [name for name, weight in named.items() if not weight.requires_grad]
    partition = split(named, freeze=options.freeze, model_frozen=[*trainable.frozen, *own])
    for name in partition.frozen:
        named[name].requires_grad_(False)
    return partition


def training_mode(module: torch.nn.Module) -> None:
    """Training mode, except for batch normalisations whose weights are frozen."""
    module.train()
    for inner in module.modules():
        if isinstance(inner, torch.nn.modules.batchnorm._BatchNorm) and _is_frozen(inner):
            inner.eval()


def make_optimiser(trainable: TorchTrainable, partition: Partition, options: TrainerOptions) -> torch.optim.AdamW:
    """AdamW with decoupled decay (Loshchilov & Hutter 2019), one group for each pair of decay and rate factor.

    A group's `factor` scales the scheduled rate. The fused implementation does all arithmetic of an update in one pass.

    Raises:
        UserError: a decay pattern that matches no weight.
    """
    patterns = trainable.decay if options.weight_decay_params is None else options.weight_decay_params
    everything = sorted([*partition.trained, *partition.frozen])
    decayed = matching(everything, patterns, "trainer.weight_decay_params") if options.weight_decay > 0 else set()
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, weight in partition.trained.items():
        key = (options.weight_decay if name in decayed else 0.0, float(trainable.lr_multipliers.get(name, 1.0)))
        groups.setdefault(key, []).append(weight)
    described = [
        {"params": weights, "weight_decay": decay, "factor": factor} for (decay, factor), weights in groups.items()
    ]
    return torch.optim.AdamW(described, lr=0.0, betas=trainable.betas, eps=trainable.eps, fused=True)


def optimiser_arrays(optimiser: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """The optimiser's memory as `optimiser/<what>/<weight>`; zeros where no update has been made yet.

    `names` gives the name of each weight by its id.
    """
    found = {}
    for weight in _weights(optimiser):
        memory = optimiser.state.get(weight) or {}
        for what in ("exp_avg", "exp_avg_sq"):
            found[f"optimiser/{what}/{names[id(weight)]}"] = memory.get(what, torch.zeros_like(weight))
        step = memory.get("step", torch.zeros((), dtype=torch.float32))
        found[f"optimiser/step/{names[id(weight)]}"] = step
    return found


def fill_optimiser(
    optimiser: torch.optim.Optimizer, names: Mapping[int, str], arrays: Mapping[str, np.ndarray]
) -> None:
    """Undo `optimiser_arrays`: the memory comes to lie where the weights lie."""
    for weight in _weights(optimiser):
        name = names[id(weight)]
        memory = {what: shard_like(arrays[f"optimiser/{what}/{name}"], weight) for what in ("exp_avg", "exp_avg_sq")}
        step = torch.from_numpy(np.array(arrays[f"optimiser/step/{name}"])).to(weight.device)
        optimiser.state[weight] = {**memory, "step": step}


class Average:
    """Exponential moving average of the trained weights, with warm-up: min(decay, (1 + t) / (10 + t)) after t updates.

    The rule of the JAX step (TensorFlow's `ExponentialMovingAverage(num_updates)`); the counter is the step itself.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float):
        self._sources, self._decay = dict(weights), decay
        self.values = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Move on after update number `done` (counted from 1)."""
        decay = min(self._decay, (1.0 + done) / (10.0 + done))
        for name, value in self.values.items():
            value.lerp_(self._sources[name].detach(), 1.0 - decay)


def on_host(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as a numpy array of the same bits, contiguous, on the host.

    Raises:
        UserError: a type that checkpoints do not hold.
    """
    if tensor.dtype in (torch.bfloat16, torch.float16):
        raise UserError(
            f"Weights of type {tensor.dtype} cannot be trained exactly: keep them in float32 and compute in half "
            "precision with trainer.precision=bfloat16 (for LeRobot's large policies: model.dtype=float32)."
        )
    return tensor.detach().cpu().contiguous().numpy()


def _weights(optimiser: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    return (weight for group in optimiser.param_groups for weight in group["params"])


def _is_frozen(module: torch.nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(weight.requires_grad for weight in own)
