"""What every model family gives the rest of xp: a `Policy` to ask, and a trainable to train, in JAX or in torch.

Letters: B batch, T observation history, H horizon, A action, S state, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

Batch = Mapping[str, Any]
"""Numpy batch with LeRobot's keys, in dataset units:

`observation.images.<camera>` [B, T, h, w, C] uint8, `observation.state` [B, T, S] float32,
`observation_is_pad` [B, T] bool, `task` list of B strings, `episode_index` [B] and `frame_index` [B] int64; where
there is one, `observation.environment_state` [B, T, E] float32; for
training also `action` [B, P+F, A] float32 (steps t-P .. t+F-1 around the last observed step t; P = T-1 and F = H unless
the policy's `window` says otherwise) and `action_is_pad` [B, P+F] bool, and, where observation dropout is on,
`observation_is_dropped` [B] bool.

Where the dataset has them, at the steps of `action` (and padded where `action_is_pad` says so): `reward` [B, P+F]
float32, what followed each action; `done` [B, P+F] bool, whether the attempt ended with it; `step` [B, P+F] int64, the
step's number in its attempt, 0 where one begins (several attempts may follow one another in an episode, as in a
learning history). Where groups of episodes have actions and states of their own widths, `group_index` [B] int64 says
whose a window is; A and S are then those of the widest group, and what is beyond a group's own widths is 0.
"""


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """What a policy takes and gives. `cameras` maps a dataset camera name to its (height, width, channels)."""

    horizon: int
    action_dim: int
    state_dim: int
    cameras: Mapping[str, tuple[int, int, int]]
    environment_dim: int = 0
    """E: how many numbers of `observation.environment_state` the policy reads."""
    history: int = 1
    language: bool = True
    prefix_past: int = 0
    """How many executed actions before the present step `predict(past=)` takes."""
    prefix_future: int = 0
    """How many committed actions from the present step on `predict(prefix=)` takes; 0: takes none."""
    actions_before: int | None = None
    """How many actions before the present step a training window holds; None: history - 1."""
    actions_ahead: int | None = None
    """How many actions from the present step on a training window holds; None: horizon."""

    @property
    def window(self) -> tuple[int, int]:
        """(P, F): actions before the present step, and from it on, in a window that `loss` takes."""
        before = self.history - 1 if self.actions_before is None else self.actions_before
        return before, self.horizon if self.actions_ahead is None else self.actions_ahead


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A Gaussian over action chunks in dataset units: one covariance shared by all steps of the horizon.

    `mean` [B, H, A]; `scale_tril` [B, A, A], lower triangular, covariance = scale_tril @ scale_tril.T.
    """

    mean: np.ndarray
    scale_tril: np.ndarray


@runtime_checkable
class Policy(Protocol):
    """Observation in, action chunk out."""

    spec: PolicySpec

    @property
    def camera_slots(self) -> Mapping[str, str]:
        """{the policy's own name of a camera: the camera that feeds it}."""
        ...

    def predict(self, observation: Batch, *, seed: int = 0, **options: Any) -> np.ndarray:
        """Actions [B, H, A] float32 in dataset units. Images may have any size; they are resized to the spec's.

        A policy whose spec has `prefix_future` D > 0 also takes `prefix` [B, d, A], 1 <= d <= D, the committed actions
        a_t .. a_{t+d-1}, and `past` [B, k, A], the executed a_{t-k} .. a_{t-1}, both in dataset units. The chunk then
        begins after the prefix: its first action is a_{t+d}.
        """
        ...

    def predict_distribution(self, observation: Batch) -> Distribution | None:
        """The predictive density where the model has one, else None."""
        ...

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective and its parts on one batch, in evaluation mode."""
        ...

    def weights(self) -> Mapping[str, np.ndarray]:
        """Named arrays, with the names of the format they came from."""
        ...

    def save(self, folder: Path) -> None:
        """Write the policy in the format it came from, so that `load_policy(folder)` gives it back exactly."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a dataset offers to a model. `cameras` maps name to (height, width, channels) as stored."""

    cameras: Mapping[str, tuple[int, int, int]]
    action_dim: int
    state_dim: int
    fps: float
    environment_dim: int = 0
    tasks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class DataTransforms:
    """How a dataset is shown to a model in training, beyond what it holds.

    `deltas(lags, anchor, exclude)` gives the statistics of action differences over the training episodes: mean, std,
    min, max [A]. `lags` are pairs (anchor step, predicted step) relative to the observed one, `anchor` is "action" or
    "observation.state", `exclude` holds indices of dimensions that stay absolute.
    """

    obs_dropout: float = 0.0
    """Share of training samples whose state is hidden; the batch says which."""
    action_space: str = "absolute"
    anchor: str | None = None
    exclude: Sequence[str] = ()
    action_names: Sequence[str] = ()
    deltas: Callable[..., Mapping[str, np.ndarray]] | None = None

    @property
    def is_relative(self) -> bool:
        """Whether the model learns differences to an anchor."""
        return self.action_space == "relative"


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
class JaxTrainable:
    """A model as the JAX loop sees it: initial weights and pure functions on them.

    `weights` is a nested dict of float32 arrays. `loss(weights, inputs, key, train)` is jit-able and returns the scalar
    objective (mean over valid elements) and a dict of scalar parts. `prepare(batch)` turns a numpy batch into the
    model's numpy inputs (normalised, tokenised). `policy(weights)` wraps weights as a deployable Policy.
    `frozen` are patterns (fnmatch on '/'-joined paths) that the model itself never trains, such as a language encoder;
    `freeze_presets` are patterns by name, which `trainer.freeze` may name instead.
    """

    spec: PolicySpec
    weights: Any
    loss: Callable[..., tuple[Any, dict[str, Any]]]
    prepare: Callable[[Batch], dict[str, np.ndarray]]
    policy: Callable[[Any], Policy]
    frozen: Sequence[str] = ()
    freeze_presets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    loaded: LoadReport = field(default_factory=LoadReport)


@dataclass(frozen=True, kw_only=True)
class TorchTrainable:
    """A model as the torch loop sees it: a module and functions on it.

    `module` is a `torch.nn.Module` with every weight, on the CPU until the loop moves it. `prepare(batch)` turns a
    numpy batch into host tensors (and strings); it may share the batch's memory. `loss(inputs)` takes them on the
    module's device and returns the scalar objective and a dict of scalar parts; it draws from torch's global generators
    alone. `place(device)` tells what stands beside the module (processors) where it runs. `policy(weights)` wraps the
    module as it is (None), or its one copy, made when first asked for, with other weights (a mapping by name), as a
    deployable Policy.
    """

    spec: PolicySpec
    module: Any
    loss: Callable[[dict[str, Any]], tuple[Any, Mapping[str, Any]]]
    prepare: Callable[[Batch], dict[str, Any]]
    policy: Callable[[Mapping[str, Any] | None], Policy]
    place: Callable[[str], None] = lambda device: None
    frozen: Sequence[str] = ()
    """Patterns of weights that the model itself never trains; those without `requires_grad` come on top."""
    decay: Sequence[str] = ("*",)
    """Patterns of the weights that decay where `trainer.decay` does not say it."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Factor on the learning rate by weight; 1 for those not named."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    loaded: LoadReport = field(default_factory=LoadReport)


Trainable = JaxTrainable | TorchTrainable
