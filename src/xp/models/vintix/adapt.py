"""A task that a model has never seen, begun as a copy of one that it knows: encoders, decoder and statistics.

As github.com/ishiishiishii/vintix begins (`scripts/self_improving_finetune.py`), with two differences: a reference that
the model lacks is refused instead of leaving random weights, and joints whose axes point the other way are turned, so
that the copy does what the reference does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from xp.errors import UserError, did_you_mean, join_names
from xp.models.network_family.torch_policy import new_module
from xp.models.vintix.folder import Description
from xp.models.vintix.network import VintixNetwork
from xp.models.vintix.tasks import Moments, Task, Tasks


@dataclass(frozen=True, eq=False)
class Turned:
    """Signs [S] and [A] that turn observations and actions of the reference into those of the new task."""

    observation: Float[np.ndarray, " S"]
    action: Float[np.ndarray, " A"]


def known_task(tasks: Tasks, name: str, key: str) -> Task:
    """The task of that name, of a group of that name, or of the robot that both are named by (`go2`: `go2_locomotion`).

    Raises:
        UserError: there is none, or several; the tasks there are.
    """
    exact = [task for task in tasks.all if task.name == name]
    alike = [task for task in tasks.all if task.group == name or task.name.partition("_")[0] == name]
    found = exact or alike
    if len(found) != 1:
        what = "knows no" if not found else f"knows {len(found)} of the"
        raise UserError(
            f"{key}={name}: the model {what} task or group of that name{did_you_mean(name, tasks.names)}. It knows "
            f"{join_names(tasks.names)}: give one of them, e.g. {key}={tasks.names[0]}"
        )
    return found[0]


def with_copied_task(
    described: Description,
    network: VintixNetwork,
    name: str,
    *,
    reference: str,
    key: str = "reference",
    turned: Turned | None = None,
    statistics: Moments | None = None,
) -> tuple[Description, VintixNetwork]:
    """A model of its own that knows one task more, in a group of its own, with the weights of the reference's group.

    Args:
        described: the model's description; it stays as it is.
        network: its weights; they stay as they are.
        name: of the new task and of its group.
        reference: the task (or its group, or robot) to be copied.
        key: what the reference is called, for messages.
        turned: signs between the two; None where they are alike.
        statistics: of the new task's observations, by which they are normalised; None for the reference's, turned.

    Raises:
        UserError: the model knows no such reference, or knows the new task already, or widths that differ.
    """
    copied = known_task(described.tasks, reference, key)
    if name in described.tasks.names or name in described.tasks.groups:
        raise UserError(f"The model knows the task '{name}' already: there is nothing to copy. Take another robot.")
    if turned is None:
        turned = Turned(np.ones(copied.state_dim), np.ones(copied.action_dim))
    if len(turned.observation) != copied.state_dim or len(turned.action) != copied.action_dim:
        raise UserError(
            f"{key}={reference} has {copied.state_dim} observed numbers and {copied.action_dim} actions, the new task "
            f"{len(turned.observation)} and {len(turned.action)}: expected equal ones, since weights are copied."
        )
    mean = copied.observation.mean * turned.observation.astype(np.float32)
    task = replace(
        copied,
        name=name,
        group=name,
        observation=statistics or Moments(mean, copied.observation.std),
        action=Moments(copied.action.mean * turned.action.astype(np.float32), copied.action.std),
    )
    larger = replace(described, tasks=Tasks((*described.tasks.all, task)))
    module = new_module(lambda: VintixNetwork(larger.options, larger.tasks, larger.origin), 0)
    state = {**module.state_dict(), **network.state_dict()}
    for theirs, own in zip(weight_names(copied.group, state), weight_names(name, state), strict=True):
        state[own] = state[theirs].clone()
    _turn(state, name, turned)
    module.load_state_dict(state)
    module.to(next(network.parameters()).device)
    return larger, module


def weight_names(group: str, names: Sequence[str] | dict[str, torch.Tensor]) -> list[str]:
    """Names of the weights that are a group's own."""
    parts = ("encoder.obs_encoders", "encoder.acs_encoders", "encoder.rews_encoders", "head.acs_decoders")
    return [name for part in parts for name in names if name.startswith(f"{part}.{group}.")]


def _turn(state: dict[str, torch.Tensor], group: str, turned: Turned) -> None:
    """Turn what reads observations and actions, and what gives actions. With means turned as well this is exact."""
    observation = torch.from_numpy(turned.observation.astype(np.float32))
    action = torch.from_numpy(turned.action.astype(np.float32))
    state[f"encoder.obs_encoders.{group}.layers.0.weight"] *= observation
    state[f"encoder.acs_encoders.{group}.layers.0.weight"] *= action
    last = max(name for name in state if name.startswith(f"head.acs_decoders.{group}.") and name.endswith(".bias"))
    state[last] *= action
    state[last.replace(".bias", ".weight")] *= action[:, None]
