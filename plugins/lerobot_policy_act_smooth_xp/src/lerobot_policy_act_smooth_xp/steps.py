"""Processor steps that any LeRobot policy can use: observation dropout, and actions relative to an anchor.

They are registered in LeRobot's `ProcessorStepRegistry` and saved with a policy's processors, so LeRobot's own commands
load them. B batch, H steps of the action window, A action, S state.
"""

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    PolicyProcessorPipeline,
    ProcessorStep,
    ProcessorStepRegistry,
    RelativeActionsProcessorStep,
    to_relative_actions,
)
from lerobot.utils.constants import OBS_STATE
from torch import Tensor

from lerobot_policy_act_smooth_xp.configuration_act_smooth import JSON

Features = dict[PipelineFeatureType, dict[str, PolicyFeature]]

DROPPED_KEYS = ("observation_is_dropped", "observation.is_dropped")
"""Which samples lose their observation, [B] bool. LeRobot's `batch_to_transition` keeps only the second spelling."""
ANCHOR_KEY = "observation.action_anchor"
"""The anchor action [B, A] in dataset units, for a caller who knows it."""
ANCHORS = ("observation.state", "a_t0", "last_prefix")
_DROP = 1
"""The stream of random numbers that xp draws dropped samples from."""


def dropped_samples(seed: int, step: int, count: int, rate: float) -> np.ndarray:
    """[count] bool, True with probability `rate`: a pure function of the arguments.

    Raw Philox words (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), 53 bits of each.
    """
    words = np.random.Philox(np.random.SeedSequence([seed, _DROP, step])).random_raw(count)
    return (words >> np.uint64(11)) * 2.0**-53 < rate


@ProcessorStepRegistry.register("observation_dropout")
@dataclass
class ObservationDropoutStep(ProcessorStep):
    """Hide `keys` of some samples in training: their values become zero (the mean, behind a normaliser).

    Which ones: `observation_is_dropped` in the complementary data or `observation.is_dropped` among the observations,
    [B] bool; where neither is there, a draw that depends on (seed, number of training batches so far) alone. That
    number is the step's state, so a resumed training goes on with the same draws.

    A transition counts as training where it carries actions and gradients are on: LeRobot's evaluations have one or
    both off. `training` overrides this and is not saved.
    """

    rate: float = 0.0
    seed: int = 0
    keys: list[str] = field(default_factory=lambda: [OBS_STATE])
    training: bool | None = None
    _step: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"observation_dropout: rate={self.rate} is not a probability (0 to 1).")
        if self.seed < 0:
            raise ValueError(f"observation_dropout: seed={self.seed} must be 0 or more.")

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """The transition with the chosen samples hidden, and without `observation.is_dropped`."""
        observation = dict(transition.get(TransitionKey.OBSERVATION) or {})
        given = observation.pop(DROPPED_KEYS[1], None)
        given = (transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}).get(DROPPED_KEYS[0], given)
        new = _with(transition, {TransitionKey.OBSERVATION: observation})
        if not self._in_training(transition):
            return new
        present = [key for key in self.keys if key in observation]
        if not present:
            raise ValueError(
                f"observation_dropout: none of {self.keys} is among the observations {sorted(observation)}. Name what "
                "to hide with `keys`."
            )
        size = len(observation[present[0]])
        dropped = dropped_samples(self.seed, self._step, size, self.rate) if given is None else given
        self._step += 1
        for key in present:
            value = observation[key]
            mask = torch.as_tensor(dropped, dtype=torch.bool, device=value.device)
            observation[key] = value.masked_fill(mask.reshape(-1, *[1] * (value.ndim - 1)), 0.0)
        return new

    def _in_training(self, transition: EnvTransition) -> bool:
        if self.training is not None:
            return self.training
        return transition.get(TransitionKey.ACTION) is not None and torch.is_grad_enabled()

    def get_config(self) -> dict[str, JSON]:
        """The fields, for saving."""
        return {"rate": self.rate, "seed": self.seed, "keys": list(self.keys)}

    def state_dict(self) -> dict[str, Tensor]:
        """How many training batches there were."""
        return {"step": torch.tensor(self._step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on after that many training batches."""
        self._step = int(state["step"])

    def transform_features(self, features: Features) -> Features:
        """Features stay as they are."""
        return features


@ProcessorStepRegistry.register("relative_to_anchor")
@dataclass
class RelativeToAnchorStep(RelativeActionsProcessorStep):
    """Actions become differences to an anchor; the paired `AbsoluteFromAnchorStep` adds it again.

    Anchors: `observation.state`, the present state; `a_t0`, the action at the observed step, which must be known when
    the policy is asked (`observation.action_anchor` in the batch); `last_prefix`, the action executed last before the
    chunk, which the paired step remembers.

    LeRobot's class is the base, so that its factory pairs the two steps when it loads them and its real-time-chunking
    engine expresses left-over actions anew. `exclude_joints` with `action_names` keeps those dimensions absolute.

    Args:
        anchor: As above.
        index_t0: Row of the action window that belongs to the observed step.
        drop_past: Leave out the rows before it (the policy predicts from a_t on).
        n_action_steps: A policy that is asked step by step and plans that many actions at once keeps the anchor of the
            step it planned at; 1 where each call gives a whole chunk.
    """

    enabled: bool = True
    anchor: str = "observation.state"
    index_t0: int = 0
    drop_past: bool = False
    n_action_steps: int = 1
    _calls: int = field(default=0, init=False, repr=False)
    _emitted: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.anchor not in ANCHORS:
            raise ValueError(
                f"relative_to_anchor: anchor={self.anchor!r} is not one of the choices. Allowed: {', '.join(ANCHORS)}."
            )
        if self.n_action_steps < 1:
            raise ValueError(f"relative_to_anchor: n_action_steps={self.n_action_steps} must be 1 or more.")
        if self.index_t0 < (1 if self.anchor == "last_prefix" else 0):
            raise ValueError(
                f"relative_to_anchor: index_t0={self.index_t0} with anchor={self.anchor}: the window must hold the "
                "anchor. For last_prefix it begins at least one step before the observed one (index_t0=1)."
            )

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Training: relative actions. Inference: remember the anchor for the paired step."""
        observation = dict(transition.get(TransitionKey.OBSERVATION) or {})
        given = observation.pop(ANCHOR_KEY, None)
        new = _with(transition, {TransitionKey.OBSERVATION: observation})
        if not self.enabled:
            return new
        actions = new.get(TransitionKey.ACTION)
        if actions is None:
            if self._calls % self.n_action_steps == 0:
                self._last_state = self._inference_anchor(observation, given)
            self._calls += 1
            return new
        anchor = self._training_anchor(observation, actions)
        self.check_width(anchor, actions.shape[-1])
        self._last_state = anchor
        actions = to_relative_actions(actions, anchor, self._build_mask(actions.shape[-1]))
        extra = dict(new.get(TransitionKey.COMPLEMENTARY_DATA) or {})
        if self.drop_past:
            actions = actions[:, self.index_t0 :]
            if "action_is_pad" in extra:
                extra["action_is_pad"] = extra["action_is_pad"][:, self.index_t0 :]
        return _with(new, {TransitionKey.ACTION: actions, TransitionKey.COMPLEMENTARY_DATA: extra})

    def _training_anchor(self, observation: dict[str, Any], actions: Tensor) -> Tensor:
        if self.anchor == "observation.state":
            return _present_state(observation)
        row = self.index_t0 - (self.anchor == "last_prefix")
        if actions.ndim != 3 or actions.shape[1] <= row:
            raise ValueError(
                f"relative_to_anchor: anchor={self.anchor} takes row {row} of action windows [B, H, A]; given "
                f"{tuple(actions.shape)}."
            )
        return actions[:, row]

    def _inference_anchor(self, observation: dict[str, Any], given: Tensor | None) -> Tensor:
        if given is not None:
            return given
        if self.anchor == "last_prefix" and self._emitted is not None:
            return self._emitted
        if self.anchor == "a_t0":
            raise ValueError(
                "relative_to_anchor: anchor=a_t0 needs the committed action at the observed step: put it into the "
                f"batch as '{ANCHOR_KEY}' [B, A], or use anchor=observation.state or last_prefix."
            )
        return _present_state(observation)

    def check_width(self, anchor: Tensor, width: int) -> None:
        """Raise ValueError unless the anchor [B, S] reaches over all `width` action dimensions that are relative."""
        if anchor.shape[-1] < width and all(self._build_mask(width)):
            raise ValueError(
                f"relative_to_anchor: the anchor '{self.anchor}' has {anchor.shape[-1]} dimensions, the actions "
                f"{width}: they cannot be subtracted. Use anchor=a_t0 or last_prefix, or keep absolute actions."
            )

    def note_emitted(self, actions: Tensor) -> None:
        """The paired step gave out absolute actions [B, A], or a chunk [B, H, A] whose last counts as executed."""
        self._emitted = actions if actions.ndim == 2 else actions[:, -1]

    def reset(self) -> None:
        """Forget the anchor and what was executed; an episode begins."""
        self._calls, self._emitted, self._last_state = 0, None, None

    def get_config(self) -> dict[str, JSON]:
        """The fields, for saving."""
        own = {name: getattr(self, name) for name in ("anchor", "index_t0", "drop_past", "n_action_steps")}
        return {**super().get_config(), **own}


@ProcessorStepRegistry.register("absolute_from_anchor")
@dataclass
class AbsoluteFromAnchorStep(AbsoluteActionsProcessorStep):
    """Adds the anchor of the paired `RelativeToAnchorStep` to actions [B, A] or [B, H, A]."""

    enabled: bool = True

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """The transition with absolute actions, which the paired step is told of."""
        actions = transition.get(TransitionKey.ACTION)
        paired = self.relative_step
        if not self.enabled or actions is None or not isinstance(paired, RelativeToAnchorStep):
            return super().__call__(transition)
        anchor = paired.get_cached_state()
        if anchor is not None:
            paired.check_width(anchor, actions.shape[-1])
        new = super().__call__(transition)
        paired.note_emitted(new[TransitionKey.ACTION])
        return new


@ProcessorStepRegistry.register("hold_action")
@dataclass
class HoldActionStep(ProcessorStep):
    """Where no actions are given (inference), adds `key`: the normalised action that keeps the robot in its place.

    It is the state, read as an action in dataset units: state * scale + offset, [B, A]. For robots whose states and
    actions are the same joints; it stands before the normaliser.
    """

    key: str = "observation.hold_action"
    scale: Any = None
    offset: Any = None

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """The transition with `key` among its observations, where it can be known."""
        observation = transition.get(TransitionKey.OBSERVATION) or {}
        if transition.get(TransitionKey.ACTION) is not None or self.scale is None or OBS_STATE not in observation:
            return transition
        state = _present_state(observation)
        scale, offset = (torch.as_tensor(x, dtype=state.dtype, device=state.device) for x in (self.scale, self.offset))
        if state.shape[-1] != len(scale):
            return transition
        return _with(transition, {TransitionKey.OBSERVATION: {**observation, self.key: state * scale + offset}})

    def get_config(self) -> dict[str, JSON]:
        """The fields, for saving."""
        return {"key": self.key}

    def state_dict(self) -> dict[str, Tensor]:
        """Scale and offset, where they are known."""
        if self.scale is None:
            return {}
        return {name: torch.as_tensor(getattr(self, name), dtype=torch.float32) for name in ("scale", "offset")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Scale and offset, unless they were given."""
        if self.scale is None:
            self.scale, self.offset = state.get("scale"), state.get("offset")

    def transform_features(self, features: Features) -> Features:
        """Features stay as they are."""
        return features


def _with(transition: EnvTransition, changes: dict[TransitionKey, Any]) -> EnvTransition:
    return cast(EnvTransition, {**transition, **changes})


def _present_state(observation: dict[str, Any]) -> Tensor:
    """`observation.state` [B, S] of the present step; of a history [B, T, S] the last."""
    if OBS_STATE not in observation:
        raise ValueError(f"There is no '{OBS_STATE}' among the observations {sorted(observation)} to be an anchor.")
    state = observation[OBS_STATE]
    return state[:, -1] if state.ndim == 3 else state


def pair_anchor_steps(preprocessor: PolicyProcessorPipeline, postprocessor: PolicyProcessorPipeline) -> None:
    """Tell each `AbsoluteFromAnchorStep` where its anchor is, as LeRobot's factory does when it loads a policy."""
    relative = next((step for step in preprocessor.steps if isinstance(step, RelativeToAnchorStep)), None)
    absolute: list[Any] = [step for step in postprocessor.steps if isinstance(step, AbsoluteActionsProcessorStep)]
    for step in absolute:
        step.relative_step = relative
