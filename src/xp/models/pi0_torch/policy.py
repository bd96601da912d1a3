"""A pi0 in torch with its weights: the `Policy` of the family."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32, Shaped

from xp import atomic
from xp.checkpoints.arrays import Leaf
from xp.models.observation import refuse_without_actions
from xp.models.pi0.flow_policy import Arrays, FlowPolicy
from xp.models.pi0.interface import Interface, PredictOptions
from xp.models.pi0.io.torch_folder import create_torch, pieces, write_beside
from xp.models.pi0.network.sizes import Sizes
from xp.models.pi0_torch.network import Model, loss, sample
from xp.models.policy import Batch, Framework, Seed
from xp.models.torch_arrays import as_array, numpy_dtype

type Host = dict[str, torch.Tensor | list[str]]
"""Prepared inputs on the host."""


class Pi0TorchPolicy(FlowPolicy):
    """See `FlowPolicy`."""

    framework: ClassVar[Framework] = "torch"

    def __init__(self, interface: Interface, sizes: Sizes, module: Model) -> None:
        """`module` is asked in evaluation mode and left in the mode it was in."""
        super().__init__(interface)
        self.sizes, self.module = sizes, module

    def _sample(self, inputs: Arrays, asked: PredictOptions, seed: Seed) -> Float32[np.ndarray, "batch horizon width"]:
        """See `FlowPolicy`."""
        noise = torch.from_numpy(asked.noise_for(self.noise_shape(len(inputs["state"])), seed))
        with torch.no_grad(), self._asked():
            found = sample(self.module, self._placed(host(inputs)), noise.to(self._device), asked.num_steps)
        return found.float().cpu().numpy()

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective on one batch; noise and time are drawn from `seed` unless the batch has them."""
        refuse_without_actions(batch)
        with torch.no_grad():
            return {"loss": float(self.loss_with_graph(self.prepare(batch), seed)[0])}

    def prepare(self, batch: Batch) -> Host:
        """A batch as the network's inputs: normalised, tokenised, on the host."""
        return host(self.interface.prepare(batch))

    def loss_with_graph(
        self, inputs: Mapping[str, torch.Tensor | list[str]], seed: int
    ) -> tuple[Shaped[torch.Tensor, ""], dict[str, torch.Tensor | float]]:
        """See `TorchPolicy.loss_with_graph`."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), self._asked():
            torch.manual_seed(seed)
            return loss(self.module, self._placed(inputs), self.interface.counted_dims), {}

    def weights(self) -> Mapping[str, Shaped[np.ndarray, "..."]]:
        """Every weight by its name in model.safetensors; numbers of half precision as float32."""
        return {name: tensor.detach().float().cpu().numpy() for name, tensor in self.module.state_dict().items()}

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "Pi0TorchPolicy":
        """A policy of its own with other weights, which are copied."""
        module = copy.deepcopy(self.module)
        state = module.state_dict()
        with torch.no_grad():
            for name, array in weights.items():
                state[name].copy_(torch.from_numpy(np.array(array, np.float32)))
        return Pi0TorchPolicy(self.interface, self.sizes, module)

    def save(self, folder: Path) -> None:
        """Write a folder as openpi's converter does, whole or not at all, and xp's notes beside the weights."""
        own = self.interface
        state = self.module.state_dict()
        leaves = {name: Leaf(name, tuple(tensor.shape), numpy_dtype(tensor.dtype)) for name, tensor in state.items()}
        floats = {leaf.dtype for leaf in leaves.values()}
        precision = "float32" if floats == {np.dtype(np.float32)} else "bfloat16"
        with atomic.folder(Path(folder)) as target:
            target.mkdir(parents=True, exist_ok=True)
            writer = create_torch(target, leaves, "")
            for name, tensor in state.items():
                for start, values in pieces(as_array(tensor)):
                    writer.write(name, start, values)
            writer.close()
            file = own.tokenizer_file
            write_beside(target, self.sizes, own.assets, own.notes, file, precision=precision)

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _placed(self, inputs: Mapping[str, torch.Tensor | list[str]]) -> dict[str, torch.Tensor]:
        return placed(inputs, self._device)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Evaluation mode, leaving every module's mode as it was; half precision where the policy computes in it."""
        was = {module: module.training for module in self.module.modules()}
        self.module.eval()
        half = self.interface.notes.dtype == "bfloat16"
        try:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
                yield
        finally:
            for module, training in was.items():
                module.training = training


def host(arrays: Mapping[str, np.ndarray]) -> Host:
    """Arrays as tensors that share their memory."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def placed(inputs: Mapping[str, torch.Tensor | list[str]], device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of prepared inputs on a device."""
    return {name: value.to(device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
