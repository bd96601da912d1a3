# pyright: strict
"""Hides states and makes actions relative around any model, in training and in prediction.

For families whose models have no such thing themselves (`Family.wraps_transforms`). Before `prepare` a batch loses the
states that observation dropout hides and gets its actions as differences to the last observed state; after `predict`
the state is added again. The model is built with statistics of those differences. That actions are relative is noted
beside the saved policy in `xp_transforms.json`. Pure numpy.

Letters: B batch, T observation history, H horizon, A action, S state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float32, Shaped
from numpy.typing import NDArray

from xp.atomic import write_json
from xp.errors import UserError, join_names
from xp.foreign.json_file import read_fields
from xp.foreign.paths import member
from xp.models.family import BuildRequest, Family
from xp.models.observation import STATE
from xp.models.policy import (
    Batch,
    DataSpec,
    DataTransforms,
    Distribution,
    Framework,
    JaxPolicy,
    Policy,
    Seed,
    Statistics,
    TorchPolicy,
)
from xp.models.trainable import Trainable

if TYPE_CHECKING:
    import jax
    import torch

NOTES = "xp_transforms.json"
"""What is noted beside a policy whose actions are relative."""
DROPPED = "observation_is_dropped"
_WHAT = "xp's notes on a policy's actions"
_WIDEST = 1_000_000


@dataclass(frozen=True)
class RelativeActions:
    """Actions as differences to the last observed state, by position; the dimensions `excluded` stay absolute."""

    action_dim: int
    excluded: tuple[int, ...] = ()

    def anchor(self, observation: Batch) -> Float32[NDArray[np.float32], "batch 1 action"]:
        """What is subtracted from every action of a chunk: [B, 1, A], zero where actions stay absolute.

        `observation.state` may be [S], [B, S] or [B, T, S].

        Raises:
            UserError: there is no state, or it is narrower than the last dimension that is relative.
        """
        if observation.get(STATE) is None:
            raise UserError(
                f"The policy's actions are relative to '{STATE}', and the observation has {join_names(observation)}. "
                f"Add '{STATE}' [B, S]."
            )
        state = np.asarray(observation[STATE], np.float32)
        state = state[None] if state.ndim == 1 else state[:, -1] if state.ndim == 3 else state
        relative = [i for i in range(self.action_dim) if i not in self.excluded]
        if relative and relative[-1] >= state.shape[-1]:
            raise UserError(
                f"The policy's actions are relative to the state in {relative[-1] + 1} dimensions; '{STATE}' has "
                f"{state.shape[-1]}. Give the states that the policy was trained on."
            )
        anchor = np.zeros((len(state), 1, self.action_dim), np.float32)
        anchor[:, 0, relative] = state[:, relative]
        return anchor

    def to_relative(self, batch: Batch) -> Batch:
        """A batch with its actions [B, F, A] as differences; one without actions as it is."""
        if "action" not in batch:
            return batch
        return {**batch, "action": np.asarray(batch["action"], np.float32) - self.anchor(batch)}


def hide_states(batch: Batch, mean: Shaped[NDArray[np.generic], " state"]) -> Batch:
    """A batch in which the states that observation dropout hides are the mean state [S], 0 when normalised."""
    if DROPPED not in batch:
        return batch
    found = {name: value for name, value in batch.items() if name != DROPPED}
    if STATE in found:
        dropped, state = np.asarray(batch[DROPPED]), np.asarray(found[STATE])
        found[STATE] = np.where(dropped[:, None, None], mean.astype(np.float32), state)
    return found


def build_transformed(family: Family, request: BuildRequest) -> Trainable:
    """What a family builds, with observation dropout and relative actions around it.

    Raises:
        UserError: as `build` does; or actions that cannot be relative to the state.
    """
    transforms, statistics = request.transforms, request.statistics
    relative = relative_actions(request.data, transforms) if transforms.is_relative else None
    if request.pretrained and saved_relative(request.pretrained[0]) is not None and relative is None:
        raise UserError("The pretrained policy's actions are relative to the state. Type action_space=relative.")
    learned = statistics
    if relative:
        learned: Statistics = {**statistics, "action": difference_statistics(transforms, relative, request.horizon)}
    trainable = family.build(replace(request, statistics=learned, transforms=DataTransforms()))
    if relative is not None:
        _check_spec(trainable)
    mean: NDArray[np.float32] = statistics["proprio"]["mean"]

    def prepare(batch: Batch) -> Mapping[str, object]:
        return trainable.prepare(hide_states(relative.to_relative(batch) if relative else batch, mean))

    def policy(*weights: object) -> Policy:
        made = trainable.policy(*weights)
        return made if relative is None else with_relative(made, relative)

    return replace(trainable, prepare=prepare, policy=policy)


def with_relative(policy: Policy, relative: RelativeActions) -> Policy:
    """A policy whose model gives differences, as one that gives actions."""
    if policy.framework == "jax":
        assert isinstance(policy, JaxPolicy)
        return RelativeJaxPolicy(policy, relative)
    assert isinstance(policy, TorchPolicy)
    return RelativeTorchPolicy(policy, relative)


def saved_relative(folder: Path) -> RelativeActions | None:
    """What is noted beside a saved policy; None where its actions are absolute."""
    if not (folder / NOTES).exists():
        return None
    notes = read_fields(member(folder, NOTES, _WHAT), _WHAT).object("relative_actions")
    notes.refuse_others(("anchor", "action_dim", "excluded"))
    if notes.text("anchor", most=64) != STATE:
        raise notes.refusal("anchor", f"'{STATE}'")
    width = notes.integer("action_dim", low=1, high=_WIDEST)
    return RelativeActions(width, tuple(notes.integers("excluded", low=0, high=width - 1)))


def relative_actions(data: DataSpec, transforms: DataTransforms) -> RelativeActions:
    """Which actions of a dataset are relative to the state.

    Raises:
        UserError: another anchor, or actions beyond the state's dimensions.
    """
    if transforms.anchor not in (None, STATE):
        raise UserError(
            f"action_space.anchor={transforms.anchor}: this model is not told which actions are committed, so it "
            f"cannot be relative to one. Type action_space.anchor={STATE}."
        )
    patterns = [part.lower() for part in transforms.exclude]
    names = [name.lower() for name in transforms.action_names]
    excluded = tuple(i for i, name in enumerate(names) if any(part in name for part in patterns))
    beyond = [i for i in range(data.state_dim, data.action_dim) if i not in excluded]
    if beyond:
        raise UserError(
            f"action_space=relative: the anchor is the state, which has {data.state_dim} dimensions here, for "
            f"{data.action_dim} of the action. Type action_space=absolute, or leave dimensions absolute: "
            "'action_space.exclude=[NAME]'"
        )
    return RelativeActions(data.action_dim, excluded)


def difference_statistics(
    transforms: DataTransforms, relative: RelativeActions, horizon: int
) -> dict[str, NDArray[np.generic]]:
    """Statistics of relative actions in the form of those of actions."""
    assert transforms.deltas is not None
    found = transforms.deltas([(0, step) for step in range(horizon)], STATE, relative.excluded)
    renamed = {"q01": "p01", "q99": "p99"}
    kept = {renamed.get(name, name): np.asarray(each, np.float32) for name, each in found.items() if name != "count"}
    return {**kept, "mask": kept["max"] > kept["min"]}


def _check_spec(trainable: Trainable) -> None:
    spec = trainable.spec
    if spec.window[0] or spec.prefix_future:
        why = "committed actions" if spec.prefix_future else "actions before the present step"
        raise UserError(
            f"action_space=relative: this model is trained on {why} too, whose anchor is not the present "
            "state. Type action_space=absolute, or for a model with a history model.history=1."
        )


class _RelativePolicy[P: Policy]:
    """What both frameworks share: everything but the loss of weights. See `xp.models.policy.Policy`."""

    def __init__(self, policy: P, relative: RelativeActions) -> None:
        self.inner, self.relative = policy, relative
        self.spec = policy.spec

    @property
    def camera_slots(self) -> Mapping[str, str]:
        """See `Policy.camera_slots`."""
        return self.inner.camera_slots

    def predict(
        self, observation: Batch, *, seed: Seed = 0, **options: object
    ) -> Float32[NDArray[np.float32], "*draws batch horizon action"]:
        """Actions [..., B, H, A] in dataset units: the model's differences and the state that they are to."""
        anchor = self.relative.anchor(observation)
        return self.inner.predict(observation, seed=seed, **options) + anchor

    def predict_distribution(self, observation: Batch) -> Distribution | None:
        """The model's density, its mean moved by the state."""
        found = self.inner.predict_distribution(observation)
        return found and replace(found, mean=found.mean + self.relative.anchor(observation))

    def loss(self, batch: Batch, *, seed: int = 0) -> dict[str, float]:
        """The model's objective on differences."""
        return self.inner.loss(self.relative.to_relative(batch), seed=seed)

    def weights(self) -> Mapping[str, NDArray[np.generic]]:
        """The model's weights."""
        return self.inner.weights()

    def save(self, folder: Path) -> None:
        """Write the policy in its own format, and beside it that its actions are relative."""
        self.inner.save(folder)
        notes = {"anchor": STATE, "action_dim": self.relative.action_dim, "excluded": list(self.relative.excluded)}
        write_json(Path(folder) / NOTES, {"relative_actions": notes})


class RelativeJaxPolicy(_RelativePolicy[JaxPolicy]):
    """A `JaxPolicy` whose model gives differences."""

    framework: ClassVar[Framework] = "jax"

    def prepare(self, batch: Batch) -> Mapping[str, NDArray[np.generic]]:
        """A batch as the model's inputs, its actions as differences."""
        return self.inner.prepare(self.relative.to_relative(batch))

    def with_weights(self, weights: Mapping[str, NDArray[np.generic]]) -> "RelativeJaxPolicy":
        """See `Policy.with_weights`."""
        return RelativeJaxPolicy(self.inner.with_weights(weights), self.relative)

    def loss_inputs(self, batch: Batch, rows: int) -> tuple[Mapping[str, NDArray[np.generic]], int]:
        """See `JaxPolicy.loss_inputs`."""
        return self.inner.loss_inputs(self.relative.to_relative(batch), rows)

    def loss_function(self) -> "Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], jax.Array]":
        """See `JaxPolicy.loss_function`."""
        return self.inner.loss_function()


class RelativeTorchPolicy(_RelativePolicy[TorchPolicy]):
    """A `TorchPolicy` whose model gives differences."""

    framework: ClassVar[Framework] = "torch"

    def __init__(self, policy: TorchPolicy, relative: RelativeActions) -> None:
        super().__init__(policy, relative)
        self.module = policy.module

    def prepare(self, batch: Batch) -> "Mapping[str, torch.Tensor | list[str]]":
        """A batch as the model's inputs, its actions as differences."""
        return self.inner.prepare(self.relative.to_relative(batch))

    def with_weights(self, weights: Mapping[str, NDArray[np.generic]]) -> "RelativeTorchPolicy":
        """See `Policy.with_weights`."""
        return RelativeTorchPolicy(self.inner.with_weights(weights), self.relative)

    def loss_with_graph(
        self, inputs: "Mapping[str, torch.Tensor | list[str]]", seed: int
    ) -> "tuple[torch.Tensor, Mapping[str, torch.Tensor | float]]":
        """See `TorchPolicy.loss_with_graph`."""
        return self.inner.loss_with_graph(inputs, seed)
