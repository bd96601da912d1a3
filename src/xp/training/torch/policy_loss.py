"""The loss of a torch policy on a dump, with its gradient with respect to the named weights.

Policies draw noise, times and latents while they compute their loss. The seed of these draws is given here for every
batch and draw, from the dump's seed, so that every set of weights meets the same draws.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from xp.data.dumps import Dump
from xp.metrics.intervals import Sums
from xp.models.policy import Batch, TorchPolicy
from xp.training.policy_loss import refuse_other_names, summed_by_episode

type Inputs = Mapping[str, torch.Tensor | list[str]]
"""A model's inputs, see `TorchPolicy.prepare`."""

ROWS = 32
"""Windows in one pass."""
_APART = 1_000_003
"""Between the seeds of two draws: more than there are batches."""


class PolicyLoss:
    """An `xp.merging.objective.Objective`: the mean over the dump, each batch by its action steps that are no padding.

    The policy's module is used as the place where weights are put: what it held is gone afterwards.
    """

    def __init__(self, policy: TorchPolicy, dump: Dump) -> None:
        self.name = f"loss on {len(dump)} windows"
        self._policy, self._dump = policy, dump
        self._shape = {"history": policy.spec.history, "horizon": policy.spec.horizon}
        self._state = policy.module.state_dict()
        for parameter in policy.module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self._batches = [(policy.prepare(batch), _count(batch)) for batch in dump.batches(ROWS, **self._shape)]
        self._total = sum(count for _, count in self._batches)
        self._draws = dump.draws if self._draws_something() else 1

    def loss(self, weights: Mapping[str, np.ndarray]) -> float:
        """The loss of these weights over the whole dump."""
        self._place(weights)
        with torch.no_grad():
            return float(sum(share * float(self._measured(inputs, seed)) for inputs, seed, share in self._passes()))

    def loss_and_gradient(self, weights: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """The same loss and its gradient with respect to every parameter; buffers have none."""
        self._place(weights)
        self._policy.module.zero_grad(set_to_none=True)
        total = 0.0
        for inputs, seed, share in self._passes():
            value = self._measured(inputs, seed) * share
            value.backward()
            total += float(value.detach())
        found = [(n, p.grad) for n, p in self._policy.module.named_parameters() if n in weights and p.grad is not None]
        return total, {name: gradient.detach().to("cpu", torch.float32).numpy() for name, gradient in found}

    def output_buffers(self) -> dict[str, np.ndarray]:
        """The module's own memory, where that is float32 on the host: weights put there are in place."""
        return {
            name: tensor.numpy()
            for name, tensor in self._state.items()
            if tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()
        }

    def by_episode(self, weights: Mapping[str, np.ndarray]) -> Sums:
        """Sums of the loss over the action steps of each episode, and their counts: what an interval needs."""
        self._place(weights)

        def measure(batch: Batch) -> tuple[float, int]:
            inputs, count = self._policy.prepare(batch), _count(batch)
            with torch.no_grad():
                losses = [float(self._measured(inputs, self._seed(draw, 0))) for draw in range(self._draws)]
            return float(np.mean(losses)) * count, count

        return summed_by_episode(self._dump, ROWS, self._shape, measure)

    def _passes(self) -> Iterator[tuple[Inputs, int, float]]:
        """Every batch with every draw: (inputs, seed, share of the mean)."""
        for draw in range(self._draws):
            for number, (inputs, count) in enumerate(self._batches):
                yield inputs, self._seed(draw, number), count / self._total / self._draws

    def _seed(self, draw: int, number: int) -> int:
        return self._dump.seed + draw * _APART + number

    def _measured(self, inputs: Inputs, seed: int) -> torch.Tensor:
        return self._policy.loss_with_graph(inputs, seed)[0]

    def _draws_something(self) -> bool:
        """Whether the loss depends on the generator at all: one draw is enough where it does not."""
        inputs = self._batches[0][0]
        with torch.no_grad():
            return float(self._measured(inputs, self._seed(0, 0))) != float(self._measured(inputs, self._seed(1, 0)))

    def _place(self, weights: Mapping[str, np.ndarray]) -> None:
        """Copy weights into the module; a weight tied to another one is stored, and given, under one of its names."""
        there = {self._state[name].data_ptr() for name in weights if name in self._state}
        tied = {name for name, tensor in self._state.items() if name not in weights and tensor.data_ptr() in there}
        shapes = {name: tuple(tensor.shape) for name, tensor in self._state.items() if name not in tied}
        refuse_other_names(weights, shapes)
        with torch.no_grad():
            for name, array in weights.items():
                if array.__array_interface__["data"][0] != self._state[name].data_ptr():
                    self._state[name].copy_(torch.from_numpy(np.array(array)))


def _count(batch: Batch) -> int:
    return max(int(np.logical_not(np.asarray(batch["action_is_pad"])).sum()), 1)
