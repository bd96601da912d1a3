"""What a torch update changes: weights, AdamW's memory, the moving average and the running loss, as named arrays."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch.nn import Parameter

from xp.errors import UserError
from xp.models.trainable import TorchTrainable
from xp.training.options import TrainerOptions
from xp.training.partition import Partition, matching, split
from xp.training.torch.distributed import SingleProcess, full_tensor, shard_like


def partition_of(trainable: TorchTrainable, options: TrainerOptions) -> Partition[Parameter]:
    """Which weights are trained; the others lose `requires_grad`, and their batch statistics stand still.

    Raises:
        UserError: a freeze pattern that matches nothing, or nothing left to train.
    """
    named: dict[str, Parameter] = dict(trainable.module.named_parameters())
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


def make_optimiser(
    trainable: TorchTrainable, partition: Partition[Parameter], options: TrainerOptions
) -> torch.optim.AdamW:
    """AdamW with decoupled decay (Loshchilov & Hutter 2019), one group for each pair of decay and rate factor.

    A group's `factor` scales the scheduled rate. The fused implementation does all arithmetic of an update in one pass.

    Raises:
        UserError: a decay pattern that matches no weight.
    """
    patterns = trainable.decay if options.weight_decay_params is None else options.weight_decay_params
    everything = sorted([*partition.trained, *partition.frozen])
    decayed = matching(everything, patterns, "trainer.weight_decay_params") if options.weight_decay > 0 else set()
    groups: dict[tuple[float, float], list[Parameter]] = {}
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
    """Exponential moving average of the trained weights, by default with warm-up: min(decay, (1 + t) / (10 + t)).

    The rule of the JAX step (TensorFlow's `ExponentialMovingAverage(num_updates)`) after t updates; the counter is the
    step itself.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float, warmup: bool = True):
        self._sources, self._decay, self._warmup = dict(weights), decay, warmup
        self.values = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Move on after update number `done` (counted from 1)."""
        decay = min(self._decay, (1.0 + done) / (10.0 + done)) if self._warmup else self._decay
        for name, value in self.values.items():
            value.lerp_(self._sources[name].detach(), 1.0 - decay)


class TorchState:
    """Everything that an update changes; all of it goes into a checkpoint.

    Where the weights are spread over several devices, whole arrays are gathered on rank 0: every rank must then call
    the same methods in the same order, and only rank 0 gets arrays.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        trained: Mapping[str, Parameter],
        optimiser: torch.optim.Optimizer,
        average: Average | None,
        group: SingleProcess,
        filled: Sequence[str] = (),
    ):
        """`trained` are the weights of `module` that `optimiser` updates; `average` is of them, where one is kept.

        `filled` are names of buffers that data have filled at the start.
        """
        self.trained, self.optimiser = dict(trained), optimiser
        self.average = average
        self._module, self._group = module, group
        self._buffers = _moving_buffers(module) | {name: module.get_buffer(name) for name in filled}
        self._names = {id(weight): name for name, weight in trained.items()}
        self._loss_sum = torch.zeros((), device=group.device)
        self._loss_count = 0

    def record(self, loss: torch.Tensor, done: int, *, fresh: bool) -> None:
        """After update number `done` (counted from 1): moving average and running loss, which `fresh` starts anew."""
        if fresh:
            self._loss_sum, self._loss_count = torch.zeros_like(self._loss_sum), 0
        self._loss_sum += loss
        self._loss_count += 1
        if self.average is not None:
            self.average.update(done)

    def mean_loss(self) -> float:
        """The running loss: the mean since it was started anew."""
        return float(self._loss_sum) / self._loss_count

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it on the host; nothing on ranks that only help to gather it."""
        return self._gathered(self._tensors())

    def types(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each of `arrays`, without gathering them."""
        tensors = self._tensors()
        return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy what `arrays` gave into weights, buffers, optimiser and average."""
        with torch.no_grad():
            for prefix, tensors in (("weights", self.trained), ("buffers", self._buffers), ("ema", self._averages())):
                for name, tensor in tensors.items():
                    tensor.copy_(shard_like(arrays[f"{prefix}/{name}"], tensor))
        fill_optimiser(self.optimiser, self._names, arrays)
        self._loss_sum = torch.from_numpy(np.array(arrays["loss_sum"])).to(self._group.device)
        self._loss_count = int(arrays["loss_count"])

    def deployed(self) -> dict[str, torch.Tensor] | None:
        """Weights and buffers to deploy, gathered on the host where they are spread; None: those of the module."""
        if self.average is None and not self._group.is_sharded:
            return None
        state = {**self._module.state_dict(), **self._averages()}
        if not self._group.is_sharded:
            return state
        return {name: torch.from_numpy(array) for name, array in self._gathered(state).items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {f"weights/{name}": weight for name, weight in self.trained.items()}
        tensors |= {f"buffers/{name}": buffer for name, buffer in self._buffers.items()}
        tensors |= optimiser_arrays(self.optimiser, self._names)
        tensors |= {f"ema/{name}": value for name, value in self._averages().items()}
        return tensors | {"loss_sum": self._loss_sum, "loss_count": torch.tensor(self._loss_count, dtype=torch.int64)}

    def _averages(self) -> Mapping[str, torch.Tensor]:
        return self.average.values if self.average is not None else {}

    def _gathered(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Whole arrays on the host of rank 0; all ranks must ask for the same ones in the same order."""
        found = {}
        for name, tensor in tensors.items():
            full = full_tensor(tensor)
            if self._group.is_main:
                found[name] = on_host(full)
        return found


def on_host(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as a numpy array of the same bits, contiguous, on the host.

    Raises:
        UserError: a type that checkpoints do not hold.
    """
    if tensor.dtype in (torch.bfloat16, torch.float16):
        raise UserError(
            f"Weights of type {tensor.dtype} cannot be trained exactly: keep them in float32 and compute in half "
            "precision with trainer.precision=bfloat16 (model.dtype=float32, where the model has that key)."
        )
    return tensor.detach().cpu().contiguous().numpy()


def bits_on_host(tensor: torch.Tensor) -> np.ndarray:
    """A tensor of any type as a numpy array of the same bits on the host: numbers of half precision as whole numbers.

    For weights that stand still, which a checkpoint knows by their digest alone.
    """
    is_half = tensor.dtype in (torch.bfloat16, torch.float16)
    return on_host(tensor.detach().contiguous().view(torch.int16) if is_half else tensor)


def _weights(optimiser: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    return (weight for group in optimiser.param_groups for weight in group["params"])


def _is_frozen(module: torch.nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(weight.requires_grad for weight in own)


def _moving_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that an update may change: statistics of batch normalisations. Constants are left out."""
    found = {}
    for prefix, inner in module.named_modules():
        if isinstance(inner, torch.nn.modules.batchnorm._BatchNorm):
            found |= {f"{prefix}.{name}": buffer for name, buffer in inner.named_buffers(recurse=False)}
    return found
