"""A torch network with its inputs, for training (`build`) and for use (`load`)."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from xp.models.network_family.folder import read_fitting_weights, read_weights, write_weights
from xp.models.network_family.inputs import (
    ACTION,
    IS_PAD,
    Inputs,
    refuse_predict_options,
)
from xp.models.observation import IMAGES, refuse_without_actions
from xp.models.policy import Batch, Framework, Seed
from xp.models.torch_device import torch_device
from xp.models.torch_draws import predict_by_row
from xp.models.trainable import LoadReport, TorchTrainable

Parts = Mapping[str, Any]
MakeModule = Callable[[], torch.nn.Module]
"""Makes the network anew, its weights drawn from torch's global generator."""


class TorchNetworkPolicy:
    """Observations in, action chunks in dataset units out."""

    framework: ClassVar[Framework] = "torch"

    def __init__(self, inputs: Inputs, module: torch.nn.Module) -> None:
        """`module` is asked in evaluation mode and left in the mode it was in."""
        self.inputs, self.module = inputs, module
        self.spec = inputs.spec

    @property
    def camera_slots(self) -> Mapping[str, str]:
        """See `Policy.camera_slots`."""
        return self.inputs.described.fed

    def predict(self, observation: Batch, *, seed: Seed = 0, **options: Any) -> np.ndarray:
        """Actions [B, H, A] float32 in dataset units; `seed` fixes every draw."""
        if isinstance(seed, np.ndarray):
            return predict_by_row(self.predict, observation, seed, options)
        refuse_predict_options(options)
        device = next(self.module.parameters()).device
        given = {name: torch.from_numpy(value).to(device) for name, value in self.inputs.observed(observation).items()}
        with torch.no_grad(), evaluating(self.module, seed):
            chunk = self.module(as_float(given))
        return self.inputs.actions(chunk.to(torch.float32).cpu().numpy())

    def predict_distribution(self, observation: Batch) -> None:
        """These networks have no density."""

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective (`loss`) and its parts on one batch, in evaluation mode."""
        refuse_without_actions(batch)
        with torch.no_grad():
            value, parts = self.loss_with_graph(self.prepare(batch), seed)
        return {"loss": float(value), **{name: float(part) for name, part in parts.items()}}

    def prepare(self, batch: Batch) -> dict[str, torch.Tensor]:
        """A batch as host tensors."""
        return tensors(self.inputs.prepare(batch))

    def loss_with_graph(self, inputs: Mapping[str, Any], seed: int) -> tuple[torch.Tensor, Parts]:
        """See `TorchPolicy.loss_with_graph`."""
        device = next(self.module.parameters()).device
        with evaluating(self.module, seed):
            return objective(self.module, {name: value.to(device) for name, value in inputs.items()})

    def weights(self) -> Mapping[str, np.ndarray]:
        """Every weight and buffer by its name; numbers of half precision as float32."""
        return {name: as_numpy(tensor) for name, tensor in self.module.state_dict().items()}

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "TorchNetworkPolicy":
        """A policy of its own with other weights, which are copied."""
        module = copy.deepcopy(self.module)
        fill(module, weights)
        return TorchNetworkPolicy(self.inputs, module)

    def save(self, folder: Path) -> None:
        """Write the policy folder; `load_policy(folder)` gives this policy back exactly."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.inputs.described.write(folder)
        write_weights(folder, self.weights())


@contextmanager
def evaluating(module: torch.nn.Module, seed: int, parts: Iterable[torch.nn.Module] | None = None) -> Iterator[None]:
    """Evaluation mode and draws from `seed`, leaving generators and mode as they were.

    Args:
        module: with all its weights.
        seed: of the generator on the CPU, and of that of the module's device.
        parts: all modules within it, itself included, where the caller keeps them: looking for them takes longer than
            a small network's answer.
    """
    training = [inner for inner in (module.modules() if parts is None else parts) if inner.training]
    device = next(module.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for GPUs, and notes where it was called
        else:
            torch.manual_seed(seed)
        for inner in training:
            inner.training = False
        try:
            yield
        finally:
            for inner in training:
                inner.training = True


def build(make: MakeModule, inputs: Inputs, *, seed: int, pretrained: Path | None) -> TorchTrainable:
    """A new policy to train, from the weights of `pretrained` that fit by name and shape."""
    module = new_module(make, seed)
    report = _started(module, pretrained) if pretrained else LoadReport()
    copies: list[torch.nn.Module] = []

    def policy(weights: Mapping[str, torch.Tensor] | None) -> TorchNetworkPolicy:
        if weights is None:
            return TorchNetworkPolicy(inputs, module)
        if not copies:
            copies.append(copy.deepcopy(module))
        copies[0].load_state_dict(weights)
        return TorchNetworkPolicy(inputs, copies[0])

    return TorchTrainable(
        spec=inputs.spec,
        prepare=lambda batch: {**tensors(inputs.prepare(batch))},
        policy=policy,
        load_report=report,
        module=module,
        loss=lambda given: objective(module, given),
    )


def load(make: MakeModule, inputs: Inputs, folder: Path, device: str | None) -> TorchNetworkPolicy:
    """A saved policy, every weight accounted for.

    Raises:
        UserError: weights that do not fit the description, or an unknown device.
    """
    with torch.device("meta"):  # no memory is taken for weights that the file does not hold
        shadow = make()
    weights = read_weights(folder, shapes(shadow))
    module = new_module(make, 0)
    fill(module, weights)
    return TorchNetworkPolicy(inputs, module.to(torch_device(device)))


def objective(module: torch.nn.Module, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, Parts]:
    """The module's own loss and its parts, or the mean absolute error over actions that are no padding."""
    own, given = getattr(module, "loss", None), as_float(inputs)
    if own is not None:
        return own(given)
    error = (module(given) - given[ACTION]).abs().mean(-1)
    valid = (~given[IS_PAD]).to(error.dtype)
    return (error * valid).sum() / valid.sum().clamp(min=1), {}


def as_float(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as the network takes them: pictures [B, T, h, w, 3] uint8 become [B, T, 3, h, w] float32 of 0 to 1."""
    return {
        name: value.to(torch.float32).div_(255.0).movedim(-1, -3) if name.startswith(IMAGES) else value
        for name, value in inputs.items()
    }


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Arrays as host tensors that may share their memory."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def new_module[Module: torch.nn.Module](make: Callable[[], Module], seed: int) -> Module:
    """A module of freshly drawn weights, a function of the seed; torch's generator is left as it was."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return make()


def _started(module: torch.nn.Module, folder: Path) -> LoadReport:
    """Start from the weights of a folder that fit by name and shape; what became of each."""
    fits, report = read_fitting_weights(folder, shapes(module))
    fill(module, fits)
    return report


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each weight and buffer by its name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def fill(module: torch.nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Copy weights into a module, by their names in its state dict; floats in the module's type."""
    state = module.state_dict()
    with torch.no_grad():
        for name, array in weights.items():
            kind = np.float32 if state[name].is_floating_point() else array.dtype
            state[name].copy_(torch.from_numpy(np.array(array, kind)))


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as a numpy array on the host; half precision as float32."""
    tensor = tensor.detach()
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    return (tensor.to(torch.float32) if half else tensor).contiguous().cpu().numpy()
