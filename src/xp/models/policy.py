"""What every model family gives the rest of xp to ask: a `Policy`, what it takes, and what a dataset offers to it.

Letters: B batch, T observation history, H horizon, A action, S state, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

Framework = Literal["jax", "torch"]
"""What a model is written in: its training loop, its objectives and its devices follow from it."""

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

    framework: ClassVar[Framework]
    """What it is written in: a "jax" policy is a `JaxPolicy` too, a "torch" policy a `TorchPolicy`."""
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

    def prepare(self, batch: Batch) -> Mapping[str, Any]:
        """A batch as the model's inputs on the host: normalised, tokenised."""
        ...

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> "Policy":
        """A policy of its own with other weights, named as `weights` names them; they are copied."""
        ...

    def weights(self) -> Mapping[str, np.ndarray]:
        """Named arrays, with the names of the format they came from."""
        ...

    def save(self, folder: Path) -> None:
        """Write the policy in the format it came from, so that `load_policy(folder)` gives it back exactly."""
        ...


class JaxPolicy(Policy, Protocol):
    """A policy in JAX: its loss is a pure function of its weights."""

    def loss_inputs(self, batch: Batch, rows: int) -> tuple[Mapping[str, Any], int]:
        """A batch of at most `rows` windows as inputs of `loss_function`, and how many action values its mean is over.

        Rows are filled up to `rows`, so that every batch has one shape; what is filled in counts in no mean.
        """
        ...

    def loss_function(self) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
        """`loss(weights, inputs)`: the objective of `loss`, without randomness; jit-able and not compiled.

        `weights` are those of `weights()`, by name; the value is a scalar jax array.
        """
        ...


class TorchPolicy(Policy, Protocol):
    """A policy in torch: its loss is a function of its module, with a graph."""

    module: Any
    """The `torch.nn.Module` whose `state_dict` has the names of `weights()`."""

    def loss_with_graph(self, inputs: Mapping[str, Any], seed: int) -> tuple[Any, Mapping[str, Any]]:
        """The objective of `loss` and its parts on prepared inputs, with a graph where gradients are on.

        Evaluation mode; every draw comes from `seed`, and torch's generators are left as they were.
        """
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
