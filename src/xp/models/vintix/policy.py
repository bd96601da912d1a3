"""A Vintix model as a policy: the next action from a window of its history."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from xp.models.network_family.inputs import refuse_predict_options
from xp.models.network_family.torch_policy import as_numpy, evaluating, fill, tensors
from xp.models.observation import refuse_without_actions
from xp.models.policy import Batch, Framework, PolicySpec, Seed
from xp.models.torch_draws import predict_by_row
from xp.models.vintix.adapt import Turned, weight_names, with_copied_task
from xp.models.vintix.folder import Description
from xp.models.vintix.inputs import VintixInputs
from xp.models.vintix.network import VintixNetwork
from xp.models.vintix.rollout import Rollout
from xp.models.vintix.tasks import Moments
from xp.models.vintix.weights import write_state_dict

type Inputs = Mapping[str, torch.Tensor | list[str]]
type Parts = Mapping[str, torch.Tensor | float]


class VintixPolicy:
    """Windows of trajectories in, the next action out. Step by step: `xp.models.vintix.rollout.Rollout`."""

    framework: ClassVar[Framework] = "torch"

    def __init__(
        self,
        described: Description,
        module: VintixNetwork,
        *,
        group_names: Sequence[str] = (),
        sums_losses: bool = False,
    ) -> None:
        """`module` is asked in evaluation mode and left in the mode it was in; the others as of `VintixInputs`."""
        self.described, self.module = described, module
        self.inputs = VintixInputs(module.tasks, module.state_dim, module.action_dim, group_names)
        self.sums_losses = sums_losses
        self.spec = spec_of(described)

    @property
    def camera_slots(self) -> Mapping[str, str]:
        """It has no cameras."""
        return {}

    def predict(self, observation: Batch, *, seed: Seed = 0, **options: object) -> np.ndarray:
        """The action [B, 1, A] at the last step of each window; A is that of the spec, zeros beyond a group's own.

        The batch holds `observation.state` [B, T, S], and `action` [B, T, A], `reward` [B, T] and `step` [B, T] of the
        same steps (with `action_is_pad`, where a history begins within it). Of the last step only the observation and
        the step's number are read.
        """
        if isinstance(seed, np.ndarray):
            return predict_by_row(self.predict, observation, seed, options)
        refuse_predict_options(options)
        given = {name: torch.from_numpy(value) for name, value in self.inputs.arrays(observation).items()}
        device = next(self.module.parameters()).device
        with torch.no_grad(), evaluating(self.module, seed):
            actions = self.module({name: value.to(device) for name, value in given.items()})
            rows = torch.arange(len(actions), device=device)
            chosen = actions[rows, (given["count"].to(device) - 1).clamp(min=0)]
        return _fitted(as_numpy(chosen.to(torch.float32)), self.described.action_dim)[:, None]

    def predict_distribution(self, observation: Batch) -> None:
        """Vintix has no density."""

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective (`loss`) on one batch, in evaluation mode."""
        refuse_without_actions(batch)
        with torch.no_grad():
            value, _ = self.loss_with_graph(self.prepare(batch), seed)
        return {"loss": float(value)}

    def prepare(self, batch: Batch) -> dict[str, torch.Tensor]:
        """A batch as host tensors; see `VintixInputs.arrays`."""
        return tensors(self.inputs.arrays(batch))

    def loss_with_graph(self, inputs: Inputs, seed: int) -> tuple[torch.Tensor, Parts]:
        """See `TorchPolicy.loss_with_graph`."""
        device = next(self.module.parameters()).device
        given = {name: value.to(device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        with evaluating(self.module, seed):
            return objective(self.module, given, sums=self.sums_losses)

    def weights(self) -> Mapping[str, np.ndarray]:
        """Every weight by its name in the original's state dict."""
        return {name: as_numpy(tensor) for name, tensor in self.module.state_dict().items()}

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "VintixPolicy":
        """A policy of its own with other weights, which are copied."""
        module = copy.deepcopy(self.module)
        fill(module, weights)
        return self._around(module)

    def save(self, folder: Path) -> None:
        """Write the folder; xp and the original's code load it again."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.described.write(folder)
        write_state_dict(folder, self.module.state_dict())

    def acting_in(
        self, tasks: Sequence[str], *, mode: Literal["sliding", "exact"] = "sliding", context: int | None = None
    ) -> Rollout:
        """See `xp.models.policy.InContextPolicy`."""
        return Rollout(self, tasks, mode=mode, context=context)

    def with_task(
        self,
        name: str,
        *,
        reference: str,
        key: str,
        signs: tuple[Sequence[float], Sequence[float]] | None = None,
        observed: np.ndarray | None = None,
    ) -> "VintixPolicy":
        """See `xp.models.policy.InContextPolicy`."""
        turned = None if signs is None else Turned(np.asarray(signs[0]), np.asarray(signs[1]))
        own = None if observed is None else Moments.measured(observed)
        described, module = with_copied_task(
            self.described, self.module, name, reference=reference, key=key, turned=turned, statistics=own
        )
        return VintixPolicy(described, module, group_names=self.inputs.group_names, sums_losses=self.sums_losses)

    def weights_of(self, task: str) -> list[str]:
        """See `xp.models.policy.InContextPolicy`."""
        tasks = self.described.tasks
        return weight_names(tasks.all[tasks.number(task)].group, list(self.module.state_dict()))

    def _around(self, module: VintixNetwork) -> "VintixPolicy":
        return VintixPolicy(self.described, module, group_names=self.inputs.group_names, sums_losses=self.sums_losses)


def spec_of(described: Description) -> PolicySpec:
    """A window of the context and one step more, whose observation is not read: it gives action and reward before."""
    return PolicySpec(
        horizon=1,
        action_dim=described.action_dim,
        state_dim=described.state_dim,
        cameras={},
        history=described.options.context_len + 1,
        language=False,
    )


def objective(module: VintixNetwork, inputs: Mapping[str, torch.Tensor], *, sums: bool) -> tuple[torch.Tensor, Parts]:
    """Mean squared error of each trajectory, and of these the mean, or as in the original the sum.

    Trajectories of which every token is left out count in neither.
    """
    losses = module.losses(inputs)
    total = losses.sum()
    return (total if sums else total / (inputs["count"] > 0).sum().clamp(min=1)), {}


def _fitted(actions: np.ndarray, width: int) -> np.ndarray:
    """[B, A] as [B, width]: zeros beyond, or without what is beyond."""
    have = actions.shape[1]
    return actions[:, :width] if have >= width else np.pad(actions, ((0, 0), (0, width - have)))
