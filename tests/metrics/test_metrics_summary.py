"""metrics.json: the first experiment's keys, honest units, baselines beside, plain JSON."""

import json

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from xp.atomic import plain
from xp.errors import UserError
from xp.metrics import prediction_metrics, success_metrics
from xp.metrics.scores import sums_from_episodes

SEED_KEYS = [
    "training_horizon",
    "prediction_horizon",
    "num_trajectories",
    "mse",
    "mae",
    "predictions_shape",
    "ground_truth_shape",
]
N, H, A = 60, 4, 3
STATISTICS = {"mean": [0.5, 0.0, -1.0], "std": [2.0, 1.0, 0.5], "mask": [True, True, False]}
SCALE = np.array([2.0, 1.0, 1.0])


@pytest.fixture
def windows():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(N, H, A)) * 2
    is_pad = np.zeros((N, H), dtype=bool)
    is_pad[::7, 2:] = True
    predictions = truth + rng.normal(size=truth.shape) * 0.3
    return {
        "predictions": predictions,
        "truth": truth,
        "is_pad": is_pad,
        "episode_index": np.repeat(np.arange(12), 5),
        "statistics": STATISTICS,
        "training_horizon": 4,
        "resamples": 1000,
    }


def test_the_first_experiments_keys_are_there_in_normalised_units_without_padding(windows):
    metrics = prediction_metrics(**windows)
    assert [key for key in SEED_KEYS if key not in metrics] == []
    difference = ((windows["predictions"] - windows["truth"]) / SCALE)[~windows["is_pad"]]
    assert metrics["mse"] == pytest.approx(np.mean(difference**2), rel=1e-6)
    assert metrics["mae"] == pytest.approx(np.mean(np.abs(difference)), rel=1e-6)
    assert metrics["dataset_units"]["mae"] == pytest.approx(np.mean(np.abs(difference * SCALE)), rel=1e-6)
    assert metrics["predictions_shape"] == metrics["ground_truth_shape"] == [N, H, A]
    assert metrics["num_trajectories"] == metrics["mse_interval"]["n_episodes"] == 12
    assert "normalised" in metrics["units"]["mse"] and "padded" in metrics["units"]["mse"]


def test_padded_steps_never_change_metrics(windows):
    before = prediction_metrics(**windows)
    spoiled = np.where(windows["is_pad"][..., None], np.nan, windows["truth"])
    assert prediction_metrics(**{**windows, "truth": spoiled}) == before
    moved = np.where(windows["is_pad"][..., None], 1e6, windows["predictions"])
    assert prediction_metrics(**{**windows, "predictions": moved}) == before


def test_metrics_are_strict_json_and_the_same_twice(windows):
    density = (windows["predictions"], np.broadcast_to(np.eye(A) * 0.3, (N, A, A)))
    options = {**windows, "distribution": density, "held_action": windows["truth"][:, 0], "gripper_dim": 2}
    first, second = prediction_metrics(**options), prediction_metrics(**options)
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert json.loads(json.dumps(first)) == first


def test_baselines_stand_beside_with_their_own_intervals(windows):
    metrics = prediction_metrics(**windows, held_action=windows["truth"][:, 0] + 5.0)
    assert set(metrics["baselines"]) == {"zero", "mean", "hold_last"}
    zero = (windows["truth"] / SCALE)[~windows["is_pad"]]
    assert metrics["baselines"]["zero"]["mse"] == pytest.approx(np.mean(zero**2), rel=1e-6)
    for baseline in metrics["baselines"].values():
        assert baseline["mse_interval"]["low"] < baseline["mse"] < baseline["mse_interval"]["high"]
        assert len(baseline["per_step"]["normalised"]["mae"]["value"]) == H
    assert metrics["beats_baselines"]["mean"]["mse"]["intervals_apart"] is True


def test_a_model_as_bad_as_the_baseline_does_not_beat_it(windows):
    copy = np.zeros_like(windows["truth"])
    beats = prediction_metrics(**{**windows, "predictions": copy})["beats_baselines"]["zero"]["mae"]
    assert beats["intervals_apart"] is False
    assert beats["paired_better"] is False
    assert beats["difference"]["value"] == 0.0


def test_one_episode_gives_no_verdict(windows):
    metrics = prediction_metrics(**{**windows, "episode_index": np.zeros(N, dtype=int)})
    assert metrics["mse_interval"]["low"] is None
    assert metrics["beats_baselines"]["zero"]["mse"]["intervals_apart"] is None


def test_nll_is_that_of_the_density_in_normalised_units(windows):
    tril = np.tril(np.random.default_rng(1).normal(size=(A, A))) + 2 * np.eye(A)
    mean = windows["predictions"]
    metrics = prediction_metrics(**windows, distribution=(mean, np.broadcast_to(tril, (N, A, A))))
    scaled = tril / SCALE[:, None]
    valid = ~windows["is_pad"]
    residual = ((windows["truth"] - mean) / SCALE)[valid]
    expected = -multivariate_normal(np.zeros(A), scaled @ scaled.T).logpdf(residual)
    assert metrics["nll"] == pytest.approx(expected.mean(), rel=1e-6)
    assert metrics["nll_dataset_units"] == pytest.approx(metrics["nll"] + np.log(SCALE).sum(), rel=1e-6)
    assert set(metrics["calibration"]["coverage"]) == {"0.5", "0.8", "0.9", "0.95"}


def test_per_episode_errors_rebuild_the_mean(windows):
    metrics = prediction_metrics(**windows)
    assert sums_from_episodes(metrics["episodes"], "mae").mean() == pytest.approx(metrics["mae"])


def test_predictions_with_nan_are_refused_with_the_episode(windows):
    windows["predictions"][7, 1, 0] = np.nan
    with pytest.raises(UserError, match="1 of 60 windows.*window 7, episode 1"):
        prediction_metrics(**windows)


def test_no_valid_step_and_a_collapsed_density_are_refused(windows):
    with pytest.raises(UserError, match="nothing to score"):
        prediction_metrics(**{**windows, "is_pad": np.ones((N, H), dtype=bool)})
    with pytest.raises(UserError, match="density is not usable"):
        prediction_metrics(**windows, distribution=(windows["predictions"], np.zeros((N, A, A))))


def test_success_carries_its_interval_and_every_initial_state():
    metrics = success_metrics([True, True, False, True], [10, 11, 12, 13], steps=np.array([5, 6, 100, 7]))
    assert metrics["success_rate"] == 0.75
    assert metrics["num_success"] == 3
    assert metrics["initial_states"] == [10, 11, 12, 13]
    assert metrics["success_interval"]["low"] == pytest.approx(0.3006, abs=1e-4)
    json.dumps(metrics, allow_nan=False)


def test_plain_turns_nan_and_infinity_into_null():
    assert plain({"a": np.float32("nan"), "b": [np.inf, np.int64(3)], "c": (np.bool_(True), "x")}) == {
        "a": None,
        "b": [None, 3],
        "c": [True, "x"],
    }
