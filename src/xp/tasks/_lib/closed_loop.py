"""`xp task=eval eval=closed_loop`: success of a policy in a simulated suite, beside one that does nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xp import atomic
from xp.envs import EpisodeResult, Predict, Suite, side_by_side, write_video
from xp.envs.rollout import History, rollout
from xp.envs.suite import refuse_missing_states, suite_of
from xp.metrics.success import success_metrics
from xp.models.sensitivity import image_sensitivity
from xp.runs import Run
from xp.tasks._lib.data_source import refuse_other_rate
from xp.tasks._lib.recorders import EnvMaker, PrefixConditionedPolicy, fit_suite, load_acting_policy

if TYPE_CHECKING:
    from xp.models.policy import Policy

METRICS = "metrics.json"


def run(run: Run) -> None:
    """Leaves metrics.json (rates with Wilson intervals and every initial state) and videos/ of the first episodes."""
    config = run.config
    suite, asked = suite_of(config.env), config.eval
    refuse_missing_states(suite, asked.first_seed, asked.episodes, ("eval.first_seed", "eval.episodes"))
    mend = "Type env.fps={fps:g}"
    refuse_other_rate(config.eval.checkpoint, config.env.fps, "the simulation (env.fps)", mend)
    policy = load_acting_policy(config, config.eval.checkpoint, config.eval.camera_map, config.eval.unnorm_key)
    fit_suite(policy, suite, "eval.camera_map")
    cameras = {name: (height, width) for name, (height, width, _) in policy.spec.cameras.items()}
    envs = EnvMaker.of(config.env, cameras, environment_state=bool(policy.spec.environment_dim))
    sensitivity = _sensitivity(run, policy, envs)
    steps = config.chunk_size.steps if config.chunk_size.execution == "receding" else 1
    policies: dict[str, Predict] = {"policy": PrefixConditionedPolicy(policy, steps, config.seed)}
    if config.eval.controls:
        policies["noop"] = suite.noop(policy.spec.horizon)
    results = _all_results(run, policies, envs, policy.spec.history)
    metrics = _metrics(run, suite, results, sensitivity)
    atomic.write_json(run.folder / METRICS, metrics)
    run.write_summary(
        {"task": "eval", "success": {k: v["all"]["success_rate"] for k, v in metrics["policies"].items()}}
    )
    _say(run, metrics)


def _sensitivity(run: Run, policy: "Policy", envs: EnvMaker) -> dict[str, Any]:
    """Whether the images reach the action: asked before anything is scored."""
    observations = []
    for task in run.config.env.tasks:
        env = envs.make(task)
        observations.append(History(env.reset(run.config.eval.first_seed), policy.spec.history, 0).batch())
    where, allow_blind = str(run.config.eval.checkpoint), run.config.eval.allow_blind
    return image_sensitivity(policy, observations, where=where, allow_blind=allow_blind)


def _all_results(
    run: Run, policies: dict[str, Predict], envs: EnvMaker, history: int
) -> dict[str, dict[str, list[EpisodeResult]]]:
    """{policy: {task: its episodes}}; all policies start from the same initial states."""
    config = run.config
    seeds = range(config.eval.first_seed, config.eval.first_seed + config.eval.episodes)
    results: dict[str, dict[str, list[EpisodeResult]]] = {name: {} for name in policies}
    total = len(policies) * len(config.env.tasks) * len(seeds)
    with run.progress(total, "evaluating", unit="episode") as bar:
        for task in config.env.tasks:
            env = envs.make(task)
            for name, predict in policies.items():
                filmed = set(seeds[: config.eval.videos]) if name == "policy" else set()
                for seed in seeds:
                    if run.should_stop():
                        raise run.interrupted
                    (episode,) = rollout(
                        env,
                        predict,
                        seeds=[seed],
                        chunk_steps=config.chunk_size.steps,
                        execution=config.chunk_size.execution,
                        history=history,
                        record={seed: tuple(env.cameras)} if seed in filmed else {},
                    )
                    results[name].setdefault(task, []).append(_filmed(run, episode, env.fps))
                    bar.advance()
    return results


def _filmed(run: Run, episode: EpisodeResult, fps: int) -> EpisodeResult:
    """Write the episode's video where frames were kept, and let the frames go."""
    from dataclasses import replace

    if episode.frames:
        outcome = "success" if episode.success else "failure"
        path = run.folder / "videos" / f"{episode.task}_seed{episode.seed}_{outcome}.mp4"
        write_video(path, side_by_side(list(episode.frames.values())), fps)
    return replace(episode, frames={})


def _metrics(
    run: Run, suite: Suite, results: dict[str, dict[str, list[EpisodeResult]]], sensitivity: dict[str, Any]
) -> dict[str, Any]:
    config = run.config
    return {
        "checkpoint": str(config.eval.checkpoint),
        "chunk_steps": config.chunk_size.steps,
        "execution": config.chunk_size.execution,
        "fps": config.env.fps,
        **suite.provenance(),
        "image_sensitivity": sensitivity,
        "policies": {name: _of_tasks(by_task) for name, by_task in results.items()},
        "videos": sorted(path.relative_to(run.folder).as_posix() for path in (run.folder / "videos").glob("*.mp4")),
    }


def _of_tasks(by_task: dict[str, list[EpisodeResult]]) -> dict[str, Any]:
    everything = [episode for episodes in by_task.values() for episode in episodes]
    return {
        "all": _of_episodes(everything),
        "tasks": {task: _of_episodes(episodes) for task, episodes in by_task.items()},
    }


def _of_episodes(episodes: list[EpisodeResult]) -> dict[str, Any]:
    return success_metrics(
        np.array([episode.success for episode in episodes]),
        np.array([episode.seed for episode in episodes]),
        steps=np.array([episode.steps for episode in episodes]),
    )


def _say(run: Run, metrics: dict[str, Any]) -> None:
    for name, entry in metrics["policies"].items():
        for task, score in {**entry["tasks"], "all tasks": entry["all"]}.items():
            interval = score["success_interval"]
            run.log(
                f"{name:7} {task:15} {score['num_success']:3}/{score['num_episodes']:<3} "
                f"{score['success_rate']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
            )
    run.log(f"videos: {Path(run.folder) / 'videos'}")
