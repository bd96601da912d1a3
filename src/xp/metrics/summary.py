"""Everything `metrics.json` says about one trained model asked for one horizon."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from xp.errors import UserError
from xp.metrics import actions, baselines, density
from xp.metrics.intervals import RESAMPLES, sum_by_episode
from xp.metrics.scores import KINDS, Resampling, by_episode, comparison, curve, described, pooled, scorer

UNITS = {
    "mse": "normalised action units squared, padded steps left out",
    "mae": "normalised action units, padded steps left out",
    "normalised": "dataset units divided by the training standard deviation of each dimension",
    "dataset_units": "as stored in the dataset",
    "per_dimension": "dataset units",
    "nll": "nats per step in normalised units",
}


def prediction_metrics(
    predictions: np.ndarray,
    truth: np.ndarray,
    *,
    is_pad: np.ndarray,
    episode_index: np.ndarray,
    statistics: Mapping[str, Any],
    training_horizon: int,
    prediction_horizon: int | None = None,
    held_action: np.ndarray | None = None,
    distribution: tuple[np.ndarray, np.ndarray] | None = None,
    gripper_dim: int | None = None,
    gripper_threshold: float = 0.5,
    seed: int = 0,
    resamples: int = RESAMPLES,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metrics of held-out windows as plain JSON values (no NaN: what cannot be computed is None).

    Args:
        predictions: [N, H, A] in dataset units, H the prediction horizon.
        truth: [N, H, A] in dataset units.
        is_pad: [N, H], True past the episode's end; those steps are left out everywhere.
        episode_index: [N], the episode of each window; intervals resample episodes.
        statistics: dataset statistics of the training episodes, with an `action` entry (mean, std, mask).
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
    predictions, truth, episode_index = np.asarray(predictions), np.asarray(truth), np.asarray(episode_index)
    valid = ~np.asarray(is_pad, dtype=bool)
    _check(predictions, truth, valid, episode_index, prediction_horizon)
    resampling = Resampling(seed=seed, resamples=resamples)
    score = scorer(truth, valid, episode_index, statistics["action"])
    own = score(predictions)
    result = {
        "training_horizon": int(training_horizon),
        "prediction_horizon": truth.shape[1],
        "num_trajectories": len(np.unique(episode_index)),
        **described(own, resampling),
        "predictions_shape": list(predictions.shape),
        "ground_truth_shape": list(truth.shape),
        "num_windows": len(truth),
        "num_steps": int(valid.sum()),
        "seed": seed,
        "units": UNITS,
        "per_dimension": {name: actions.per_dimension(predictions, truth, valid, kind) for name, kind in KINDS.items()},
        "episodes": by_episode(own),
    }
    rivals = {name: score(chunk) for name, chunk in _rivals(truth.shape, statistics["action"], held_action).items()}
    result["baselines"] = {name: described(rival, resampling) for name, rival in rivals.items()}
    result["beats_baselines"] = {name: comparison(own, rival, resampling) for name, rival in rivals.items()}
    if gripper_dim is not None:
        options = {"dim": gripper_dim, "threshold": gripper_threshold}
        result["gripper_accuracy"] = actions.gripper_accuracy(predictions, truth, valid, **options)
    if distribution is not None:
        scale = actions.scale_of(statistics["action"])
        result.update(_density_metrics(distribution, truth, valid, episode_index, scale, resampling))
    clash = set(result) & set(extra or {})
    assert not clash, f"extra entries {sorted(clash)} would replace metrics"
    return plain({**result, **(extra or {})})


def plain(value: Any) -> Any:
    """`value` with arrays and numpy scalars as Python ones and NaN or infinity as None, ready for strict JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rivals(
    shape: tuple[int, ...], statistics: Mapping[str, Any], held_action: np.ndarray | None
) -> dict[str, np.ndarray]:
    num, horizon, action_dim = shape
    chunks = {
        "zero": baselines.zero_action(num, horizon, action_dim),
        "mean": baselines.mean_action(num, horizon, statistics),
    }
    return chunks if held_action is None else {**chunks, "hold_last": baselines.hold_last(held_action, horizon)}


def _density_metrics(
    distribution: tuple[np.ndarray, np.ndarray],
    truth: np.ndarray,
    valid: np.ndarray,
    episode_index: np.ndarray,
    scale: np.ndarray,
    resampling: Resampling,
) -> dict[str, Any]:
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


def _check(
    predictions: np.ndarray, truth: np.ndarray, valid: np.ndarray, episode_index: np.ndarray, horizon: int | None
) -> None:
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
