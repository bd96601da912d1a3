# pyright: strict
"""The interface of every trained model: a `Policy`, what it takes and gives, and what a dataset offers to a model.

Letters: B batch, T observation history, H horizon, A action, S state, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from xp.array_types import Floats, Numbers
from xp.foreign.statistics import DatasetStatistics

if TYPE_CHECKING:
    import jax
    import torch

Framework = Literal["jax", "torch"]
"""What a model is written in: its training loop, its objectives and its devices follow from it."""

type Batch = Mapping[str, object]
"""Numpy batch with LeRobot's keys, in dataset units. It may be a user's, so what is read of it is checked there.

`observation.images.<camera>` [B, T, h, w, C] uint8, `observation.state` [B, T, S] float32,
`observation_is_pad` [B, T] bool, `task` list of B strings, `episode_index` [B] and `frame_index` [B] int64; where
there is one, `observation.environment_state` [B, T, E] float32; for
training also `action` [B, P+F, A] float32 (steps t-P .. t+F-1 around the last observed step t; P = T-1 and F = H unless
the policy's `window` says otherwise) and `action_is_pad` [B, P+F] bool, and, where observation dropout is on,
`observation_is_dropped` [B] bool, and, where pictures are augmented, `augment_seed` [B] uint64, which no model sees.

Where the dataset has them, at the steps of `action` (and padded where `action_is_pad` says so): `reward` [B, P+F]
float32, what followed each action; `done` [B, P+F] bool, whether the attempt ended with it; `step` [B, P+F] int64, the
step's number in its attempt, 0 where one begins (several attempts may follow one another in an episode, as in a
learning history). Where groups of episodes have actions and states of their own widths, `group_index` [B] int64 says
whose a window is; A and S are then those of the widest group, and what is beyond a group's own widths is 0.

Of a mixture of datasets `member_index` [B] int64 says whose a window is; A and S are those of the widest dataset, what
is beyond a dataset's own widths is 0, and a camera that it does not have is black, with
`observation.images.<camera>_is_pad` [B, T] True.
"""

type Seed = int | NDArray[np.int64]
"""Where the draws of `predict` come from: one number for the whole batch, whose rows then draw by their places, or a
number for each row [B], 0 to 2**32 - 1: what a row draws is then a function of its own number alone."""

type Statistics = DatasetStatistics
"""Statistics of the training episodes, in the form of dataset_statistics.json.

`action` [A], `proprio` [S] and, where a dataset has one, `environment_state` [E] have `mean`, `std`, `min`, `max`,
`p01`, `p99` and `mask` (False where a dimension never changes); beside them are counts of what was measured.
"""

type Deltas = Callable[[Sequence[tuple[int, int]], str, Sequence[int]], Mapping[str, NDArray[np.generic]]]
"""Statistics of action differences, see `DataTransforms`: (lags, anchor, exclude) to mean, std, min, max [A]."""


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
    takes_plan: bool = False
    """Whether `predict(plan=, delay=)` binds a chunk to the plan that is being executed (real-time chunking)."""
    optional_state: bool = False
    """Whether `predict` takes an observation without its state, which the policy masks as observation dropout does."""
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

    mean: NDArray[np.float32]
    scale_tril: NDArray[np.float32]


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

    def predict(self, observation: Batch, *, seed: Seed = 0, **options: object) -> NDArray[np.float32]:
        """Actions [B, H, A] float32 in dataset units. Images may have any size; they are resized to the spec's.

        A policy whose spec has `prefix_future` D > 0 also takes `prefix` [B, d, A], 1 <= d <= D, the committed actions
        a_t .. a_{t+d-1}, and `past` [B, k, A], the executed a_{t-k} .. a_{t-1}, both in dataset units. The chunk then
        begins after the prefix: its first action is a_{t+d}.

        A policy whose spec says `takes_plan` also takes `plan` [B, m, A] and `delay` d: what is left of the last chunk
        from the present step on, in dataset units, and how many of these actions are executed before the answer is
        there. The chunk begins at the present step; its first d actions are near those of the plan.
        """
        ...

    def predict_distribution(self, observation: Batch) -> Distribution | None:
        """The predictive density where the model has one, else None."""
        ...

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The training objective and its parts on one batch, in evaluation mode."""
        ...

    def prepare(self, batch: Batch) -> Mapping[str, object]:
        """A batch as the model's inputs on the host: normalised, tokenised."""
        ...

    def with_weights(self, weights: Mapping[str, NDArray[np.generic]]) -> "Policy":
        """A policy of its own with other weights, named as `weights` names them; they are copied."""
        ...

    def weights(self) -> Mapping[str, NDArray[np.generic]]:
        """Named arrays, with the names of the format they came from."""
        ...

    def save(self, folder: Path) -> None:
        """Write the policy in the format it came from, so that `load_policy(folder)` gives it back exactly."""
        ...


@runtime_checkable
class JaxPolicy(Policy, Protocol):
    """A policy in JAX: its loss is a pure function of its weights."""

    def prepare(self, batch: Batch) -> Mapping[str, NDArray[np.generic]]:
        """A batch as the model's inputs on the host: normalised, tokenised."""
        ...

    def with_weights(self, weights: Mapping[str, NDArray[np.generic]]) -> "JaxPolicy":
        """A policy of its own with other weights, named as `weights` names them; they are copied."""
        ...

    def loss_inputs(self, batch: Batch, rows: int) -> tuple[Mapping[str, NDArray[np.generic]], int]:
        """A batch of at most `rows` windows as inputs of `loss_function`, and how many action values its mean is over.

        Rows are filled up to `rows`, so that every batch has one shape; what is filled in counts in no mean.
        """
        ...

    def loss_function(self) -> "Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], jax.Array]":
        """`loss(weights, inputs)`: the objective of `loss`, without randomness; jit-able and not compiled.

        `weights` are those of `weights()`, by name; the value is a scalar jax array.
        """
        ...


@runtime_checkable
class TorchPolicy(Policy, Protocol):
    """A policy in torch: its loss is a function of its module, with a graph."""

    module: "torch.nn.Module"
    """Its `state_dict` has the names of `weights()`."""

    def prepare(self, batch: Batch) -> "Mapping[str, torch.Tensor | list[str]]":
        """A batch as the model's inputs on the host: normalised, tokenised."""
        ...

    def with_weights(self, weights: Mapping[str, NDArray[np.generic]]) -> "TorchPolicy":
        """A policy of its own with other weights, named as `weights` names them; they are copied."""
        ...

    def loss_with_graph(
        self, inputs: "Mapping[str, torch.Tensor | list[str]]", seed: int
    ) -> "tuple[torch.Tensor, Mapping[str, torch.Tensor | float]]":
        """The objective of `loss` and its parts on prepared inputs, with a graph where gradients are on.

        Evaluation mode; every draw comes from `seed`, and torch's generators are left as they were.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class GroupSpec:
    """A group of episodes with actions and states of its own widths (a robot, a suite)."""

    name: str
    action_dim: int
    state_dim: int
    parameter_group: str
    """Whose encoders and decoders a model with modules per group uses; groups of equal widths may share them."""
    reward_scale: float = 1.0
    """What a model that reads rewards multiplies them by."""


@dataclass(frozen=True, kw_only=True)
class MemberSpec:
    """A dataset of a mixture."""

    name: str
    """By which its statistics are told at use (`unnorm_key`)."""
    action_dim: int
    state_dim: int
    cameras: Mapping[str, str]
    """{camera of the mixture: the dataset's own camera that feeds it}."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a dataset offers to a model. `cameras` maps name to (height, width, channels) as stored."""

    cameras: Mapping[str, tuple[int, int, int]]
    action_dim: int
    state_dim: int
    fps: float
    environment_dim: int = 0
    tasks: Sequence[str] = ()
    groups: Sequence[GroupSpec] = ()
    """By `group_index` of a batch; empty where all episodes have the same widths."""
    members: Sequence[MemberSpec] = ()
    """By `member_index` of a batch; empty where it is one dataset. Both widths above are those of the widest."""


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
    deltas: Deltas | None = None

    @property
    def is_relative(self) -> bool:
        """Whether the model learns differences to an anchor."""
        return self.action_space == "relative"


@runtime_checkable
class HistoryActor(Protocol):
    """A policy at work in N envs in lockstep, with a memory of each; what `xp.envs.batch.BatchActor` says."""

    def act(
        self,
        observation: Floats,
        reward: Floats,
        begins: Numbers,
        *,
        executed: Floats | None = None,
    ) -> Floats:
        """The next action of each env."""
        ...

    def forget(self, rows: NDArray[np.bool]) -> None:
        """Begin the memory of some envs anew."""
        ...


@runtime_checkable
class InContextPolicy(TorchPolicy, Protocol):
    """A policy that acts by the history of what it observed, did and was rewarded with, and can learn new tasks."""

    def acting_in(
        self, tasks: Sequence[str], *, mode: Literal["sliding", "exact"] = "sliding", context: int | None = None
    ) -> HistoryActor:
        """Set to work in one env of each of `tasks` [N], attending to the last `context` steps (None: the model's).

        Raises:
            UserError: a task that it does not know, or more memory than there is.
        """
        ...

    def with_task(
        self,
        name: str,
        *,
        reference: str,
        key: str,
        signs: tuple[Sequence[float], Sequence[float]] | None = None,
        observed: NDArray[np.float32] | None = None,
    ) -> "InContextPolicy":
        """A policy of its own that knows one task more, begun as a copy of one that it knows.

        Args:
            name: of the new task.
            reference: the task to copy.
            key: what the reference is called, for messages.
            signs: of observations [S] and actions [A], relative to the reference; None where they are alike.
            observed: [n, S], whose mean and deviation normalise the new task's observations; None: the reference's do.

        Raises:
            UserError: it knows no such reference, or knows the new task already, or widths that differ.
        """
        ...

    def weights_of(self, task: str) -> Sequence[str]:
        """Names of the weights that only this task (or those of its group) uses."""
        ...
