"""`xp task=eval eval=offline_replay`: how well a policy's chunks follow each other on recorded episodes.

The definitions are in `xp.metrics.replay` and `xp.metrics.continuity`; this wires them to a dataset and a policy.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xp import atomic
from xp.metrics.replay import MODES, Execution, ReplayStream, Trace
from xp.metrics.replay_summary import (
    MEASURES,
    ReplayMetrics,
    ReplaySummary,
    Scales,
    demonstration_of,
    spread,
    summarise,
)
from xp.models.sensitivity import image_sensitivity
from xp.runs import Run
from xp.tasks._lib.batched_replay import BatchedReplayer, run_hold_last
from xp.tasks._lib.data_source import DataSource, eval_data
from xp.tasks._lib.loading import fit_cameras, fit_dimensions, load, shared_frames
from xp.tasks._lib.replay_inputs import check_policy, checkpoints_of, chosen_episodes, long_enough

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.models.policy import Policy, PolicySpec

METRICS, TABLE, RESULTS = "metrics.json", "metrics.csv", "results.txt"
RULES = {"receding": "last", "ensembling": "ensembling", "blend": "blend", "blend_two": "blend_two"}
Rows = dict[str, ReplaySummary]
"""{row: what `summarise` gives for it}."""


def run(run: Run) -> None:
    """Leaves metrics.json, metrics.csv (a line an episode), results.txt and figures/ of the first episodes."""
    from xp.data import compute_statistics

    config = run.config
    source, how = eval_data(config, "eval")
    scales = Scales.of(compute_statistics(source.dataset, source.split.train)["action"], source.dataset.fps)
    asked = chosen_episodes(config, source)
    found: dict[str, dict[str, Rows]] = {}
    for label, path in checkpoints_of(config):
        policy = load(config, path, config.eval)
        check_policy(config, policy.spec, path)
        fit_dimensions(policy, source.dataset, f"eval.checkpoint={path}", "eval.data_root")
        fit_cameras(policy, list(source.dataset.cameras), f"the dataset {source.dataset.root}", "eval.camera_map")
        episodes = long_enough(run, source.dataset, asked, executions(config, policy.spec), policy.spec.horizon)
        replayer = _replayer(run, source, policy, episodes)
        if not found:
            seen = replayer.first_observations(episodes[:4])
            sensitivity = image_sensitivity(replayer, seen, where=path, allow_blind=config.eval.allow_blind)
        traces = replay_all(run, replayer, episodes)
        found[label] = {mode: _rows(config, rows, episodes, scales) for mode, rows in traces.items()}
        if len(found) == 1:
            _draw(run, source, traces, episodes)
    metrics = _metrics(run, source, how, asked, policy.spec, sensitivity, found)
    _write(run, metrics)


def executions(config: "DictConfig", spec: "PolicySpec") -> dict[str, Execution]:
    """How chunks are asked for and executed in each mode."""
    longest = spec.prefix_future
    prefix_len = {mode: longest for mode in config.eval.modes}
    if longest and "delayed" in prefix_len:
        prefix_len["delayed"] = min(longest, max(1, config.eval.delay))
    return {
        mode: Execution(
            rule=RULES[config.chunk_size.execution],
            steps=config.chunk_size.steps,
            past=spec.prefix_past,
            prefix_len=prefix_len[mode],
            delay=config.eval.delay,
            jitter=config.eval.jitter,
        )
        for mode in config.eval.modes
    }


def replay_all(run: Run, replayer: BatchedReplayer, episodes: tuple[int, ...]) -> dict[str, dict[str, list[Trace]]]:
    """{mode: {row: a trace for each episode}}; all modes of all episodes advance together, in batches."""
    config, dataset = run.config, replayer.dataset
    streams: dict[str, list[ReplayStream]] = {}
    held: dict[str, list[ReplayStream]] = {}
    for mode, execution in executions(config, replayer.spec).items():
        for rows in (streams, held):
            rows[mode] = [
                ReplayStream(
                    dataset.action[dataset.rows([episode])],
                    mode,
                    execution,
                    replayer.spec.horizon,
                    seed=(config.seed, episode),
                )
                for episode in episodes
            ]
    replayer.run([(stream, episode) for group in streams.values() for stream, episode in zip(group, episodes)])
    run_hold_last(stream for group in held.values() for stream in group)
    return {
        mode: {
            "policy": [stream.trace() for stream in streams[mode]],
            "hold_last": [stream.trace() for stream in held[mode]],
        }
        for mode in streams
    }


def _replayer(run: Run, source: DataSource, policy: "Policy", episodes: tuple[int, ...]) -> BatchedReplayer:
    sizes = {camera: (height, width) for camera, (height, width, _) in policy.spec.cameras.items()}
    frames = shared_frames(run, source.dataset, sizes)
    return BatchedReplayer(run, source.dataset, frames, policy, episodes)


def _rows(config: "DictConfig", traces: dict[str, list[Trace]], episodes: tuple[int, ...], scales: Scales) -> Rows:
    shown = {**traces, "demonstration": [demonstration_of(trace) for trace in traces["policy"]]}
    options = {"seed": config.seed, "resamples": config.eval.bootstrap}
    return {row: summarise(found, episodes, scales, **options) for row, found in shown.items()}


def _metrics(
    run: Run,
    source: DataSource,
    how: str,
    asked: tuple[int, ...],
    spec: "PolicySpec",
    sensitivity: Mapping[str, float | bool],
    found: dict[str, dict[str, Rows]],
) -> ReplayMetrics:
    config = run.config
    label, replay = next(iter(found.items()))
    own = {name: {mode: _values(rows["policy"]) for mode, rows in replayed.items()} for name, replayed in found.items()}
    return {
        "checkpoint": str(config.eval.checkpoint),
        "dataset_fingerprint": source.dataset.fingerprint,
        "fps": source.dataset.fps,
        "episodes": list(asked),
        "held_out": how if config.eval.indices_episode is None else _given_episodes(source, asked),
        "joints": list(source.dataset.action_names),
        "horizon": spec.horizon,
        "prefix_past": spec.prefix_past,
        "prefix_future": spec.prefix_future,
        "chunk_steps": config.chunk_size.steps,
        "execution": config.chunk_size.execution,
        "delay": config.eval.delay,
        "jitter": config.eval.jitter,
        "measures": {name: {"label": m.label, "unit": m.unit, "about": m.about} for name, m in MEASURES.items()},
        "image_sensitivity": sensitivity,
        "policy": label,
        "replay": replay,
        "checkpoints": own,
        "spread": spread(list(own.values())),
    }


def _given_episodes(source: DataSource, asked: tuple[int, ...]) -> str:
    seen = sorted(set(asked) & set(source.split.train))
    if not seen:
        return "given by eval.indices_episode; none of them is a training episode"
    return f"given by eval.indices_episode; TRAINING episodes: {', '.join(map(str, seen))}"


def _write(run: Run, metrics: ReplayMetrics) -> None:
    from xp.report.replay_text import replay_text

    atomic.write_json(run.folder / METRICS, metrics)
    atomic.write_text(run.folder / TABLE, _table(metrics["replay"]))
    text = replay_text(metrics)
    atomic.write_text(run.folder / RESULTS, text)
    own = metrics["checkpoints"][metrics["policy"]]
    run.write_summary({"task": "eval", "eval": "offline_replay", "replay": own})
    run.log(text)


def _values(row: ReplaySummary) -> dict[str, float | None]:
    return {key: entry["value"] for key, entry in row["measures"].items()}


def _table(replay: dict[str, Rows]) -> str:
    """A line for each mode, row and episode, and one with the mean over episodes (`all`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["mode", "row", "episode", *MEASURES])
    for mode, rows in replay.items():
        for name, row in rows.items():
            writer.writerow([mode, name, "all", *(row["measures"][key]["value"] for key in MEASURES)])
            for number, episode in enumerate(row["episodes"]["index"]):
                writer.writerow([mode, name, episode, *(row["episodes"][key][number] for key in MEASURES)])
    return text.getvalue()


def _draw(run: Run, source: DataSource, traces: dict[str, dict[str, list[Trace]]], episodes: tuple[int, ...]) -> None:
    """Trajectories and accelerations of the first episodes, a picture for each mode."""
    from xp.report.replay_figures import draw_replay

    folder = Path(run.folder) / "figures"
    for number, episode in enumerate(episodes[: run.config.eval.figures]):
        for mode, rows in traces.items():
            draw_replay(
                folder,
                f"ep{episode}_{mode}",
                {row: found[number] for row, found in rows.items()},
                joints=source.dataset.action_names,
                fps=source.dataset.fps,
                title=f"Episode {episode}, {MODES[mode]}",
            )
