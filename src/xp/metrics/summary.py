# pyright: strict
"""Everything `metrics.json` says about one trained model asked for one horizon."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from xp.array_types import Bools, Floats, Ints
from xp.atomic import plain
from xp.errors import UserError
from xp.json_types import JSON
from xp.metrics import actions, baselines, density
from xp.metrics.intervals import RESAMPLES, sum_by_episode
from xp.metrics.scores import KINDS, Resampling, Scores, by_episode, compare, curve, error_summary, pooled, scorer

Chunks = Float[Floats, "windows horizon action"]
Valid = Bool[Bools, "windows horizon"]
Distribution = tuple[Chunks, density.Factor]
"""Mean and covariance factor."""

UNITS = {
    "mse": "normalised action units squared, padded steps left out",
    "mae": "normalised action units, padded steps left out",
    "normalised": "dataset units divided by the training standard deviation of each dimension",
    "dataset_units": "as stored in the dataset",
    "per_dimension": "dataset units",
    "nll": "nats per step in normalised units",
}


def prediction_metrics(
    predictions: Chunks,
    truth: Chunks,
    *,
    is_pad: Valid,
    episode_index: Int[Ints, " windows"],
    statistics: actions.FeatureStatistics,
    training_horizon: int,
    prediction_horizon: int | None = None,
    held_action: Float[Floats, "windows action"] | None = None,
    distribution: Distribution | None = None,
    gripper_dim: int | None = None,
    gripper_threshold: float = 0.5,
    seed: int = 0,
    resamples: int = RESAMPLES,
    extra: Mapping[str, object] | None = None,
) -> dict[str, JSON]:
    """The metrics of held-out windows as plain JSON values (no NaN: what cannot be computed is None).

    Args:
        predictions: [N, H, A] in dataset units, H the prediction horizon.
        truth: [N, H, A] in dataset units.
        is_pad: [N, H], True past the episode's end; those steps are left out everywhere.
        episode_index: [N], the episode of each window; intervals resample episodes.
        statistics: the `action` entry of the statistics of the training episodes (mean, std, mask).
        training_horizon: what the model was trained on; steps beyond it were extended.
        prediction_horizon: checked against H when given.
        held_action: [N, A] from `baselines.held_actions`, for the hold-last baseline.
        distribution: mean [N, H, A] and scale_tril ([A, A], [N, A, A] or [N, H, A, A]) in dataset units, where there
            is one.
        gripper_dim: the gripper's action dimension, for its accuracy.
        gripper_threshold: above it the gripper counts as open (dataset units).
        seed: of the bootstrap.
        resamples: of the bootstrap.
        extra: more entries for the result, such as task names; they may not replace a metric.

    Raises:
        UserError: predictions hold NaN or infinity, or no step is valid.
    """
    valid = ~is_pad
    _check(predictions, truth, valid, episode_index, prediction_horizon)
    resampling = Resampling(seed=seed, resamples=resamples)
    score = scorer(truth, valid, episode_index, statistics)
    own = score(predictions)
    rivals = {name: score(chunk) for name, chunk in _rivals(truth.shape, statistics, held_action).items()}
    result = {
        "training_horizon": int(training_horizon),
        **_errors(own, predictions, truth, valid, episode_index, resampling),
        "baselines": {name: error_summary(rival, resampling) for name, rival in rivals.items()},
        "beats_baselines": {name: compare(own, rival, resampling) for name, rival in rivals.items()},
    }
    if gripper_dim is not None:
        result["gripper_accuracy"] = actions.gripper_accuracy(
            predictions, truth, valid, dim=gripper_dim, threshold=gripper_threshold
        )
    if distribution is not None:
        scale = actions.scale_of(statistics)
        result |= _density_metrics(distribution, truth, valid, episode_index, scale, resampling)
    return _joined(result, extra or {})


def _joined(metrics: Mapping[str, object], extra: Mapping[str, object]) -> dict[str, JSON]:
    clash = set(metrics) & set(extra)
    assert not clash, f"extra entries {sorted(clash)} would replace metrics"
    return plain({**metrics, **extra})


def _errors(
    own: Scores,
    predictions: Chunks,
    truth: Chunks,
    valid: Valid,
    episode_index: Int[Ints, " windows"],
    resampling: Resampling,
) -> dict[str, object]:
    """The policy's own errors, what they are errors of, and the amount of data behind them."""
    return {
        "prediction_horizon": truth.shape[1],
        "num_trajectories": len(np.unique(episode_index)),
        **error_summary(own, resampling),
        "predictions_shape": list(predictions.shape),
        "ground_truth_shape": list(truth.shape),
        "num_windows": len(truth),
        "num_steps": int(valid.sum()),
        "seed": resampling.seed,
        "units": UNITS,
        "per_dimension": {name: actions.per_dimension(predictions, truth, valid, kind) for name, kind in KINDS.items()},
        "episodes": by_episode(own),
    }


def _rivals(
    shape: tuple[int, ...],
    statistics: actions.FeatureStatistics,
    held_action: Float[Floats, "windows action"] | None,
) -> dict[str, Chunks]:
    num, horizon, action_dim = shape
    chunks = {
        "zero": baselines.zero_action(num, horizon, action_dim),
        "mean": baselines.mean_action(num, horizon, statistics),
    }
    return chunks if held_action is None else {**chunks, "hold_last": baselines.hold_last(held_action, horizon)}


def _density_metrics(
    distribution: Distribution,
    truth: Chunks,
    valid: Valid,
    episode_index: Int[Ints, " windows"],
    scale: Float[Floats, " action"],
    resampling: Resampling,
) -> dict[str, object]:
    """NLL, energy score and calibration; a change to normalised units takes sum(log scale) off the NLL."""
    mean, scale_tril = np.asarray(distribution[0], dtype=np.float64), np.asarray(distribution[1], dtype=np.float64)
    known = np.where(valid[..., None], truth, mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        nll = density.gaussian_nll(mean, scale_tril, known)
    unusable = ~np.isfinite(nll) & valid
    if unusable.any():
        raise UserError(
            f"The predicted density is not usable: its NLL is NaN or infinite on {int(unusable.sum())} of "
            f"{int(valid.sum())} steps, so a covariance factor has a zero or non-finite diagonal. Raise the head's "
            "smallest standard deviation, or train again with a lower lr.peak."
        )
    to_normalised = np.log(scale).sum()
    by_step = sum_by_episode(nll - to_normalised, valid, episode_index, per_step=True)
    energy = density.energy_score(mean / scale, scale_tril / scale[:, None], known / scale, seed=resampling.seed)
    squared = density.mahalanobis_squared(mean, scale_tril, known)
    average = float(pooled(by_step).mean())
    return {
        "nll": average,
        "nll_interval": resampling.bootstrap(pooled(by_step)),
        "nll_dataset_units": average + float(to_normalised),
        "nll_per_step": curve(by_step, resampling),
        "energy_score": float(energy[valid].mean()),
        "calibration": density.calibration(squared, truth.shape[-1], valid),
    }


def _check(predictions: Floats, truth: Floats, valid: Bools, episode_index: Ints, horizon: int | None) -> None:
    """Refuse what cannot be scored, saying which array is wrong."""
    assert predictions.shape == truth.shape, f"predictions {predictions.shape} and truth {truth.shape} differ"
    assert valid.shape == truth.shape[:2] and episode_index.shape == truth.shape[:1], "is_pad or episode_index misfit"
    assert horizon in (None, truth.shape[1]), f"prediction_horizon is {horizon}, but {truth.shape[1]} steps were given"
    if not valid.any():
        raise UserError(
            "There is nothing to score: no held-out window has a step inside its episode. Give more validation "
            "episodes: data.val_fraction=0.2"
        )
    wrong = ~np.isfinite(predictions).all(axis=-1) & valid
    if wrong.any():
        windows = np.flatnonzero(wrong.any(axis=1))
        raise UserError(
            f"The model predicts NaN or infinity in {len(windows)} of {len(truth)} windows (first: window "
            f"{windows[0]}, episode {episode_index[windows[0]]}), so its weights are not usable. Look in "
            "training_log.csv for the step where the loss left its range, and train again with a lower lr.peak or "
            "with trainer.clip_norm=1"
        )
