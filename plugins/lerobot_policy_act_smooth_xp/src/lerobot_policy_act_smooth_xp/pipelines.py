"""Put observation dropout and relative actions into the processors of any LeRobot policy."""

from collections.abc import Sequence
from typing import Any

from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline, ProcessorStep, UnnormalizerProcessorStep

from lerobot_policy_act_smooth_xp.statistics import FeatureStatistics
from lerobot_policy_act_smooth_xp.steps import (
    AbsoluteFromAnchorStep,
    ObservationDropoutStep,
    RelativeToAnchorStep,
    pair_anchor_steps,
)


def add_observation_dropout(preprocessor: PolicyProcessorPipeline, *, rate: float, seed: int = 0) -> None:
    """Hide `observation.state` of a part `rate` of the training samples, behind the normaliser."""
    steps = list(preprocessor.steps)
    place = _place(steps, NormalizerProcessorStep)
    preprocessor.steps = [*steps[: place + 1], ObservationDropoutStep(rate=rate, seed=seed), *steps[place + 1 :]]


def add_relative_actions(
    preprocessor: PolicyProcessorPipeline,
    postprocessor: PolicyProcessorPipeline,
    *,
    deltas: FeatureStatistics,
    anchor: str = "observation.state",
    index_t0: int = 0,
    drop_past: bool = False,
    n_action_steps: int = 1,
    exclude_joints: Sequence[str] = (),
    action_names: Sequence[str] | None = None,
) -> None:
    """Let a policy learn and give differences to an anchor, normalised with statistics of those differences.

    Args:
        preprocessor: Of the policy; gets a `RelativeToAnchorStep` before its normaliser.
        postprocessor: Of the policy; gets an `AbsoluteFromAnchorStep` behind its un-normaliser.
        deltas: `delta_statistics` of the same anchor and steps; they replace the statistics of `action`.
        anchor: And the rest: see `RelativeToAnchorStep`.
        index_t0: As above.
        drop_past: As above.
        n_action_steps: As above.
        exclude_joints: As above; those dimensions must be absolute in `deltas` too (`absolute_dims`).
        action_names: As above.

    Raises:
        ValueError: statistics without `mean` and `std`, or pipelines without a normaliser.
    """
    if not {"mean", "std"} <= set(deltas):
        raise ValueError(
            f"Relative actions need the mean and std of action differences; given {sorted(deltas)}. Compute them with "
            "lerobot_policy_act_smooth_xp.delta_statistics(actions, episode_index, lags, episodes=training episodes)."
        )
    before, after = list(preprocessor.steps), list(postprocessor.steps)
    normalize, unnormalize = _place(before, NormalizerProcessorStep), _place(after, UnnormalizerProcessorStep)
    normalizers: list[Any] = [before[normalize], after[unnormalize]]
    for step in normalizers:
        step.stats = {**(step.stats or {}), "action": dict(deltas)}
        step.to(device=step.device)
    relative = RelativeToAnchorStep(
        anchor=anchor,
        index_t0=index_t0,
        drop_past=drop_past,
        n_action_steps=n_action_steps,
        exclude_joints=list(exclude_joints),
        action_names=None if action_names is None else list(action_names),
    )
    preprocessor.steps = [*before[:normalize], relative, *before[normalize:]]
    postprocessor.steps = [*after[: unnormalize + 1], AbsoluteFromAnchorStep(), *after[unnormalize + 1 :]]
    pair_anchor_steps(preprocessor, postprocessor)


def _place(steps: list[ProcessorStep], kind: type) -> int:
    for i, step in enumerate(steps):
        if isinstance(step, kind):
            return i
    raise ValueError(f"This pipeline has no {kind.__name__}: it has {[type(step).__name__ for step in steps]}.")
