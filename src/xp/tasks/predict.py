"""`xp task=predict`: ask a policy for actions on held-out episodes and score them against what was done.

One pass per trained model serves every prediction horizon: the chunks predicted at every frame are kept in the shared
cache, under a key of the weights, the dataset and the episodes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xp import atomic
from xp.data import Dataset, Windows, compute_statistics
from xp.data.dumps import refuse_foreign_file
from xp.foreign.statistics import DatasetStatistics
from xp.metrics import actions, baselines, horizon, intervals, motion, summary
from xp.metrics.scores import Resampling
from xp.runs import Run
from xp.tasks._lib.cached_predictions import FramePredictions, predict_all_frames
from xp.tasks._lib.data_source import DataSource, eval_data, held_out
from xp.training.action_layout import ActionLayout

if TYPE_CHECKING:
    from omegaconf import DictConfig

METRICS = "metrics.json"
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Truth:
    """What was done in each window: actions [N, H, A], padding [N, H], and the window's dataset row [N]."""

    action: np.ndarray
    is_pad: np.ndarray
    row: np.ndarray


def run(run: Run) -> None:
    """Leaves metrics.json and predictions.npz (normalised units, as the first multi-horizon experiments wrote them)."""
    config = run.config
    horizon.check_extend(config.horizon.extend)
    if config.predict.validation:
        refuse_foreign_file(Path(config.predict.validation))
    source, how = eval_data(config, "predict")
    episodes = held_out(source, config.predict.num_trajectories)
    predicted = predict_all_frames(run, source.dataset, episodes)
    statistics = compute_statistics(source.dataset, source.split.train)
    truth = _truth(source.dataset, episodes, config.horizon.predict)
    predictions, distribution = _at_horizon(config, source.dataset, predicted, truth)
    metrics = summary.prediction_metrics(
        predictions,
        truth.action,
        is_pad=truth.is_pad,
        episode_index=source.dataset.episode_index[truth.row],
        statistics=statistics["action"],
        training_horizon=predicted.horizon,
        prediction_horizon=config.horizon.predict,
        held_action=_held(source, statistics, truth.row),
        distribution=distribution,
        seed=config.seed,
        resamples=config.predict.bootstrap,
        extra={
            **_context(config, source, episodes, how),
            "image_sensitivity": predicted.image_sensitivity,
            "motion": _motion(config, source, statistics, predictions, truth),
            **_validation(config),
        },
    )
    _write_arrays(run.folder / PREDICTIONS, source.dataset, statistics, predictions, truth)
    atomic.write_json(run.folder / METRICS, metrics)
    run.write_summary({"task": "predict", **{key: metrics[key] for key in ("mse", "mae", "num_trajectories")}})
    run.log(f"mse {metrics['mse']:.4f}, mae {metrics['mae']:.4f} over {metrics['num_windows']} windows")
    for line in motion.lines(metrics["motion"]):
        run.log(line)


def _truth(dataset: Dataset, episodes: tuple[int, ...], steps: int) -> Truth:
    windows = Windows(dataset, {}, episodes, history=1, horizon=steps)
    action, is_pad = windows.actions(np.arange(len(windows)))
    return Truth(action, is_pad, dataset.rows(episodes))


def _at_horizon(
    config: "DictConfig", dataset: Dataset, predicted: FramePredictions, truth: Truth
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Predictions [N, H, A] at the asked horizon, and mean and covariance factor where the model has a density."""
    steps = config.horizon.predict

    def to_horizon(chunks: np.ndarray) -> np.ndarray:
        if config.horizon.extend == "requery" and steps > predicted.horizon:
            return horizon.join_answers(chunks[_queries(dataset, predicted, truth, steps)], steps)
        return horizon.extend(chunks, steps)

    predictions = to_horizon(predicted.chunks)
    if predicted.scale_tril is None:
        return predictions, None
    return predictions, (to_horizon(predicted.means), _per_step(config, dataset, predicted, truth, steps))


def _queries(dataset: Dataset, predicted: FramePredictions, truth: Truth, steps: int) -> np.ndarray:
    """Which answers of the pass serve each window [N, K]."""
    episode = dataset.episode_index[truth.row]
    last = dataset.episodes.starts[episode] + dataset.episodes.lengths[episode] - 1
    rows = horizon.requery_frames(truth.row, last, trained=predicted.horizon, horizon=steps)
    return np.searchsorted(truth.row, rows)


def _per_step(
    config: "DictConfig", dataset: Dataset, predicted: FramePredictions, truth: Truth, steps: int
) -> np.ndarray:
    """The covariance factor of each step: the window's own, or that of the query that answered the step."""
    assert predicted.scale_tril is not None
    if config.horizon.extend != "requery" or steps <= predicted.horizon:
        return predicted.scale_tril
    factors = predicted.scale_tril[_queries(dataset, predicted, truth, steps)]
    return np.repeat(factors, predicted.horizon, axis=1)[:, :steps]


def _held(source: DataSource, statistics: DatasetStatistics, rows: np.ndarray) -> np.ndarray:
    """The last action before each window, for the hold-last baseline."""
    dataset, mean = source.dataset, np.asarray(statistics["action"]["mean"], dtype=np.float32)
    first = dataset.episodes.starts[np.asarray(source.split.train, dtype=np.int64)]
    rule = baselines.first_frame_rule(dataset.state[first], dataset.action[first], mean)
    return baselines.held_actions(dataset.action, dataset.frame_index, rows, state=dataset.state, mean=mean, rule=rule)


def _motion(
    config: "DictConfig", source: DataSource, statistics: DatasetStatistics, predictions: np.ndarray, truth: Truth
) -> dict[str, Any]:
    """Directions, turns and the gripper, by the names of the actions' dimensions."""
    dataset = source.dataset
    layout = ActionLayout.from_names(dataset.action_names, dataset.action_dim, dataset.state_names)
    low, high = (np.asarray(statistics["action"][end], np.float64) for end in ("min", "max"))
    present = np.zeros((len(truth.row), len(layout.position)))
    if layout.state_dims is not None:
        present = dataset.state[truth.row][:, list(layout.state_dims)]
    meaning = motion.Meaning(
        position=layout.position,
        rotation=layout.rotation,
        grippers={dim: float(low[dim] + high[dim]) / 2 for dim in layout.grippers},
        unit=actions.scale_of(statistics["action"]),
        present=present,
    )
    resampling = Resampling(seed=config.seed, resamples=config.predict.bootstrap)
    episodes = dataset.episode_index[truth.row]
    return motion.motion_metrics(predictions, truth.action, ~truth.is_pad, episodes, meaning, resampling)


def _context(config: "DictConfig", source: DataSource, episodes: tuple[int, ...], how: str) -> dict[str, Any]:
    return {
        "extend": config.horizon.extend,
        "dataset_fingerprint": source.dataset.fingerprint,
        "held_out_episodes": list(episodes),
        "held_out": how,
        "tasks": sorted({source.dataset.episodes.tasks[episode] for episode in episodes}),
    }


def _validation(config: "DictConfig") -> dict[str, Any]:
    """The training objective on the validation set `predict.validation`, where one is given, by episode."""
    if config.predict.validation is None:
        return {}
    from xp.tasks._lib.loading import load
    from xp.tasks._lib.objectives import policy_loss

    checkpoint = str(config.predict.checkpoint)
    policy = load(config, checkpoint, config.predict)
    loss = policy_loss(policy, config.predict.validation, [checkpoint], "predict")
    sums = loss.by_episode(policy.weights())
    ends = intervals.bootstrap(sums, seed=config.seed, resamples=config.predict.bootstrap)
    episodes = {"index": sums.episodes, "num_steps": sums.counts.astype(int), "loss": sums.sums / sums.counts}
    return {"validation": {"loss": sums.mean(), "loss_interval": ends, "episodes": atomic.plain(episodes)}}


def _write_arrays(
    path: Path, dataset: Dataset, statistics: DatasetStatistics, predictions: np.ndarray, truth: Truth
) -> None:
    entry = statistics["action"]
    with atomic.file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            predictions=actions.normalise(predictions, entry).astype(np.float32),
            ground_truth=actions.normalise(truth.action, entry).astype(np.float32),
            is_pad=truth.is_pad,
            episode_index=dataset.episode_index[truth.row],
            frame_index=dataset.frame_index[truth.row],
            action_mean=np.asarray(entry["mean"], dtype=np.float32),
            action_std=np.asarray(entry["std"], dtype=np.float32),
        )
