# pyright: strict
"""The interface of every model in training: a `Trainable`, in JAX or in torch.

Letters: B batch, T observation history, H horizon, A action, S state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from xp.checkpoints.arrays import Array
from xp.models.policy import Batch, Framework, Policy, PolicySpec
from xp.models.tree import Tree

if TYPE_CHECKING:
    import jax
    import torch

    type Parts = dict[str, jax.Array]


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What happened to each weight when a model was started from pretrained weights (paths joined by '/')."""

    source: str = ""
    loaded: Sequence[str] = ()
    initialised: Sequence[str] = ()
    """Weights of the new model that the source lacks or has in another shape: freshly initialised."""
    dropped: Sequence[str] = ()
    """Weights of the source that the new model has no place for."""


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """A model as training sees it, whatever it is written in; the loop is the one of its `framework`."""

    framework: ClassVar[Framework]

    spec: PolicySpec
    prepare: Callable[[Batch], Mapping[str, object]]
    """Turns a numpy batch into the model's inputs on the host (normalised, tokenised)."""
    policy: Callable[..., Policy]
    """Wraps weights, in the form of the framework, as a deployable Policy."""
    frozen: Sequence[str] = ()
    """Patterns (fnmatch on whole names) of weights that the model itself never trains, such as a language encoder."""
    load_report: LoadReport = field(default_factory=LoadReport)


@dataclass(frozen=True, kw_only=True)
class JaxTrainable(Trainable):
    """A model as the JAX loop sees it: initial weights and pure functions on them.

    `weights` is a nested dict of float32 arrays; `policy(weights)` takes them so. `loss(weights, inputs, key, train)`
    is jit-able and returns the scalar objective (mean over valid elements) and a dict of scalar parts. `prepare(batch)`
    gives numpy arrays. `freeze_presets` are patterns by name, which `trainer.freeze` may name instead of patterns.
    """

    framework: ClassVar[Framework] = "jax"

    prepare: Callable[[Batch], dict[str, NDArray[np.generic]]]
    policy: "Callable[[Tree[jax.Array]], Policy]"
    weights: Tree[Array]
    loss: (
        "Callable[[Tree[jax.Array], Mapping[str, jax.Array], jax.Array, bool], tuple[jax.Array, dict[str, jax.Array]]]"
    )
    freeze_presets: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class TorchTrainable(Trainable):
    """A model as the torch loop sees it: a module and functions on it.

    `module` is a `torch.nn.Module` with every weight, on the CPU until the loop moves it; weights without
    `requires_grad` are frozen as `frozen` ones are. `prepare(batch)` gives host tensors (and strings) that may share
    the batch's memory. `loss(inputs)` takes them on the module's device and returns the scalar objective and a dict of
    scalar parts; it draws from torch's global generators alone. `to_device(device)` tells what stands beside the module
    (processors) where it runs. `policy(weights)` wraps the module as it is (None), or its one copy, made when first
    asked for, with other weights (a mapping by name).
    """

    framework: ClassVar[Framework] = "torch"

    prepare: "Callable[[Batch], dict[str, torch.Tensor | list[str]]]"
    policy: "Callable[[Mapping[str, torch.Tensor] | None], Policy]"
    module: "torch.nn.Module"
    loss: "Callable[[dict[str, torch.Tensor | list[str]]], tuple[torch.Tensor, Mapping[str, torch.Tensor | float]]]"
    to_device: Callable[[str], None] = lambda device: None
    initialise: "Callable[[dict[str, torch.Tensor | list[str]]], str] | None" = None
    """Fills buffers from data, given the inputs of some windows of the first batch on the module's device; called once
    in every attempt, before anything is restored. Returns a line for the log."""
    filled_buffers: Sequence[str] = ()
    """Names of the buffers that `initialise` fills, which checkpoints then hold."""
    decay: Sequence[str] = ("*",)
    """Patterns of the weights that decay where `trainer.weight_decay_params` does not say it."""
    lr_multipliers: Mapping[str, float] = field(default_factory=dict[str, float])
    """Factor on the learning rate by weight; 1 for those not named."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
