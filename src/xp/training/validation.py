"""Validation: the training objective and action errors of the deployed policy on held-out windows."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from xp.foreign.statistics import DatasetStatistics, FeatureStatistics
from xp.metrics.actions import direction_accuracy, gripper_accuracy, mae, scale_of
from xp.metrics.motion import STILL
from xp.models.policy import Batch, Policy
from xp.runs import Run
from xp.runs.execution.progress import Progress
from xp.runs.records.folder import PROGRESS
from xp.training.action_layout import ActionLayout

Validate = Callable[[Policy, int], dict[str, float]]
"""Metrics of a policy at a step."""

METRICS = ("val_loss", "l1_error", "direction_accuracy", "gripper_accuracy", "position_l1", "rotation_l1")
"""Columns of validation_log.csv after `step` and `epoch`, in this order."""

COMMITTED = 1
"""Actions of the demonstration that a policy with a prefix is told, from the observed step on."""


class ValidationStoppedError(Exception):
    """Somebody asked the run to stop while it validated."""


class ValidationProgress:
    """Says how far a run's validation is (a line every ten seconds, and progress.json) and ends it when asked to."""

    def __init__(self, run: Run, windows: int):
        self._run, self._windows = run, windows

    def begin(self, step: int) -> Callable[[int], None]:
        """For the validation at `step`: takes the number of windows just done.

        Raises (in the call):
            ValidationStoppedError: the run was asked to stop.
        """
        file = self._run.folder / PROGRESS
        progress = Progress(self._windows, f"validating at step {step}", unit="window", file=file, say=self._run.log)

        def follow(windows: int) -> None:
            if self._run.should_stop():
                raise ValidationStoppedError
            progress.advance(windows)

        return follow


def make_validator(
    batches: Callable[[], Iterable[Batch]],
    *,
    layout: ActionLayout,
    statistics: DatasetStatistics,
    seed: int = 0,
    progress: ValidationProgress | None = None,
    action_dim: int | None = None,
) -> Validate:
    """Build `validate(policy, step)`, which asks the deployed policy about the same held-out windows every time.

    Args:
        batches: gives the held-out batches in order, anew at each call (windows with `action` and `action_is_pad`).
        layout: which action dimensions are positions, rotations, grippers.
        statistics: the training statistics, {"action": {mean, std, min, max, mask}, ...}.
        seed: of the draws inside loss and prediction; batch number i uses seed + i at every validation.
        progress: told how far it is; it may end the validation before a batch.
        action_dim: dimensions that count, where a batch has more (a dataset of a mixture, padded to the widest).

    Returns:
        A function giving `METRICS`. `val_loss` is the training objective in evaluation mode, averaged over valid action
        steps; the L1 errors are in dataset units; `direction_accuracy` is the share of position dimensions moving by
        more than `STILL` normalised units whose predicted sign agrees; `gripper_accuracy` compares sides of the middle
        of the gripper's training range. What a dataset has no dimension for is NaN.

    A policy that takes committed actions is told the demonstration's: a_t, which is always committed, and the executed
    ones before it. Its chunk is then compared with what was done from a_{t+1} on.
    """
    action = statistics["action"]

    def validate(policy: Policy, step: int) -> dict[str, float]:
        losses, weights, parts = [], [], []
        follow = progress.begin(step) if progress else lambda windows: None
        for number, batch in enumerate(batches()):
            follow(0)
            losses.append(float(policy.loss(batch, seed=seed + number)["loss"]))
            predictions = predict_with_context(policy, batch, seed + number)
            known = policy.spec.window[0] + (COMMITTED if policy.spec.prefix_future else 0)
            truth, valid = future(batch, predictions.shape[1], known)
            weights.append(int(valid.sum()))
            actual = (predictions[..., :action_dim], truth[..., :action_dim])
            parts.append((*actual, valid, present_positions(batch, layout)))
            follow(len(predictions))
        if not parts:
            return dict.fromkeys(METRICS, math.nan)
        scored = [np.concatenate(columns) for columns in zip(*parts)]
        loss = float(np.average(losses, weights=weights)) if sum(weights) else math.nan
        return {"val_loss": loss, **action_scores(*scored, layout=layout, statistics=action)}

    return validate


def action_scores(
    predictions: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray,
    present: np.ndarray,
    *,
    layout: ActionLayout,
    statistics: FeatureStatistics,
) -> dict[str, float]:
    """The metrics of predicted chunks [B, H, A] against `truth` of the same shape, where `valid` [B, H] is True.

    `present` [B, P] holds the present value of each position dimension (zeros for relative actions). All in dataset
    units.
    """
    position, rotation = list(layout.position), list(layout.rotation)
    unit = scale_of(statistics)[position]
    return {
        "l1_error": mae(predictions, truth, valid),
        "direction_accuracy": direction_accuracy(
            predictions[..., position] / unit,
            truth[..., position] / unit,
            valid,
            threshold=STILL,
            reference=(present / unit)[:, None, :],
        )
        if position
        else math.nan,
        "gripper_accuracy": _gripper(predictions, truth, valid, layout, statistics),
        "position_l1": mae(predictions[..., position], truth[..., position], valid) if position else math.nan,
        "rotation_l1": mae(predictions[..., rotation], truth[..., rotation], valid) if rotation else math.nan,
    }


def predict_with_context(policy: Policy, batch: Batch, seed: int) -> np.ndarray:
    """The policy's chunks [B, H, A], after it was told the demonstration's prefix if it takes one.

    Where the episode begins too late for all of the past that the policy takes, it is told none.
    """
    spec = policy.spec
    if not spec.prefix_future:
        return policy.predict(batch, seed=seed)
    now = spec.window[0]
    actions, is_pad = np.asarray(batch["action"]), np.asarray(batch["action_is_pad"])
    prefix = actions[:, now : now + COMMITTED]
    past = actions[:, now - spec.prefix_past : now]
    begun = np.logical_not(np.any(is_pad[:, now - spec.prefix_past : now], axis=1))
    found = np.empty((len(prefix), spec.horizon, spec.action_dim), np.float32)
    for rows, options in ((begun, {"past": past[begun]}), (~begun, {})):
        if rows.any():
            found[rows] = policy.predict(_rows(batch, rows), seed=seed, prefix=prefix[rows], **options)
    return found


def _rows(batch: Batch, chosen: np.ndarray) -> Batch:
    """The chosen samples of a batch."""
    which = np.flatnonzero(chosen)
    found: dict[str, np.ndarray | list[object]] = {}
    for key, value in batch.items():
        assert isinstance(value, np.ndarray | list)
        found[key] = value[which] if isinstance(value, np.ndarray) else [value[i] for i in which]
    return found


def future(batch: Batch, horizon: int, before: int) -> tuple[np.ndarray, np.ndarray]:
    """The true next `horizon` actions [B, H, A] and which of them exist [B, H]: a batch holds `before` earlier ones."""
    action = np.asarray(batch["action"])[:, before : before + horizon]
    valid = ~np.asarray(batch["action_is_pad"])[:, before : before + horizon]
    assert action.shape[1] == horizon, f"the batch holds {action.shape[1]} future actions, the policy gives {horizon}"
    return action, valid


def present_positions(batch: Batch, layout: ActionLayout) -> np.ndarray:
    """The present value of each position dimension [B, P]: the last observed state, or zeros for relative actions."""
    if layout.state_dims is None:
        return np.zeros((len(np.asarray(batch["action"])), len(layout.position)), np.float32)
    return np.asarray(batch["observation.state"])[:, -1, list(layout.state_dims)]


def _gripper(
    predictions: np.ndarray, truth: np.ndarray, valid: np.ndarray, layout: ActionLayout, statistics: FeatureStatistics
) -> float:
    """Mean over grippers of the share of steps on the right side of the middle of the training range."""
    if not layout.grippers:
        return math.nan
    middle = (np.asarray(statistics["min"], dtype=np.float64) + np.asarray(statistics["max"], dtype=np.float64)) / 2
    return float(
        np.mean(
            [gripper_accuracy(predictions, truth, valid, dim=dim, threshold=middle[dim]) for dim in layout.grippers]
        )
    )
