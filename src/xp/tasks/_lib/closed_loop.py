"""`xp task=eval eval=closed_loop`: success of a policy in a simulated suite, beside controls that must fail."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from xp import atomic
from xp.envs import EpisodeResult, Suite, side_by_side, write_video
from xp.envs.evaluate import Answer, OneByOne, evaluate, first_queries
from xp.envs.maker import EnvMaker
from xp.envs.other_pictures import SHOWN, OtherPictures, pictures_of
from xp.envs.pool import Asked, EnvPool
from xp.envs.rollout import Query
from xp.envs.suite import refuse_missing_states, suite_of
from xp.envs.video import sweep_unfinished
from xp.errors import UserError
from xp.metrics.success import SuccessMetrics, success_metrics
from xp.models.acting import Acts, BatchedPolicy, rows_of
from xp.models.hidden_state import StateHidden
from xp.models.sensitivity import image_sensitivity
from xp.runs import Run
from xp.runs.execution.progress import Progress
from xp.runs.execution.run import leave_if_asked
from xp.tasks._lib.data_source import plain, refuse_other_rate
from xp.tasks._lib.episode_log import EpisodeLog
from xp.tasks._lib.recorders import fit_suite, load_acting_policy, policy_pool, worker_count

if TYPE_CHECKING:
    from xp.models.policy import Policy

METRICS = "metrics.json"
EPISODES = "episodes.csv"
POLICY, NOOP, BLIND = "policy", "noop", "blind"
PLACE_MATTERS = (
    "Note: on this machine an answer of the policy depends on its place in a batch, so every query is asked by itself: "
    "results stay the same for any number of workers, and take longer."
)


def run(run: Run) -> None:
    """Leaves metrics.json (rates with Wilson intervals, every initial state), episodes.csv (how each episode went) and
    videos/ of some episodes, failures first.
    """
    config = run.config
    suite, asked = suite_of(config.env), config.eval
    refuse_missing_states(suite, asked.first_seed, asked.episodes, ("eval.first_seed", "eval.episodes"))
    policy = load_acting_policy(config, asked.checkpoint, asked)
    fit_suite(policy, suite, "eval.camera_map")
    refuse_other_rate(asked.checkpoint, config.env.fps, "the simulation (env.fps)", partial(_mend_rate, config.env))
    acting: Acts = StateHidden(policy, "eval.hide_state") if asked.hide_state else policy
    if asked.blind:
        _refuse_unshown(policy, asked.episodes)
    names = [POLICY, *([NOOP] if asked.controls else []), *([BLIND] if asked.blind else [])]
    log = EpisodeLog(run.folder / EPISODES, names, list(config.env.tasks), resuming=run.resuming)
    with closing(_pool(run, policy, len(names))) as pool:
        answer = BatchedPolicy(acting, seed=config.seed, batch=asked.batch)
        sensitivity = _look(run, pool, answer)
        answers: dict[str, Answer] = {POLICY: answer, NOOP: OneByOne(suite.noop(policy.spec.horizon)), BLIND: answer}
        _run_episodes(run, pool, {name: answers[name] for name in names}, log)
        videos = _film(run, pool, answer, log)
    log.write()
    metrics = _metrics(run, suite, names, log, {"image_sensitivity": sensitivity, "videos": videos})
    atomic.write_json(run.folder / METRICS, metrics)
    run.write_summary(
        {"task": "eval", "success": {k: v["all"]["success_rate"] for k, v in metrics["policies"].items()}}
    )
    _say(run, metrics)


def _mend_rate(env: DictConfig, trained: float) -> str:
    """What to type for the rate that a policy was trained at, which not every suite can be simulated at."""
    try:
        suite_of({**plain(env), "fps": trained})
    except UserError:
        return f"This suite has no other rate: give a policy trained at {env.fps:g}."
    return f"Type env.fps={trained:g}"


def _refuse_unshown(policy: "Policy", episodes: int) -> None:
    """Refuse the control of other episodes' pictures where there are no other episodes, or no pictures."""
    if not policy.spec.cameras:
        raise UserError(
            "eval.blind=true: the policy looks at no pictures, so it has no blind control. Type eval.blind=false"
        )
    if episodes < 2:
        raise UserError(
            f"eval.blind=true eval.episodes={episodes}: a blind policy is shown the pictures of another episode, so "
            "there have to be two. Type eval.episodes=2 or more."
        )


def _pool(run: Run, policy: "Policy", policies: int) -> EnvPool:
    config = run.config
    cameras = {name: (height, width) for name, (height, width, _) in policy.spec.cameras.items()}
    envs = EnvMaker.of(config.env, cameras, environment_state=bool(policy.spec.environment_dim))
    episodes = policies * len(config.env.tasks) * config.eval.episodes
    return policy_pool(
        envs,
        policy,
        steps=config.chunk_size.steps,
        execution=config.chunk_size.execution,
        delay=config.chunk_size.delay,
        workers=worker_count(config.eval.workers, episodes),
        batch=config.eval.batch,
        places=config.eval.envs,
        silence_s=config.eval.silence_s,
        episodes=episodes,
        on_step=lambda *_: leave_if_asked(run),
    )


def _look(run: Run, pool: EnvPool, answer: BatchedPolicy) -> dict[str, Any]:
    """Whether the images reach the action, and whether answers depend on their place: before anything is scored."""
    config = run.config
    asked = [Asked(task, config.eval.first_seed) for task in config.env.tasks]
    seen: list[Query] = []
    for start in range(0, len(asked), pool.places):
        seen += first_queries(pool, asked[start : start + pool.places], lambda: leave_if_asked(run))
    size = config.eval.batch
    filled = [*seen, *[seen[-1]] * (-len(seen) % size)]  # a batch size that is used anyway
    batches = [rows_of(each.window for each in filled[at : at + size]) for at in range(0, len(filled), size)]
    where, allow_blind = str(config.eval.checkpoint), config.eval.allow_blind
    sensitivity = image_sensitivity(answer.policy, batches, where=where, allow_blind=allow_blind)
    if not answer.settle(seen[:size]):
        run.log(PLACE_MATTERS)
    return sensitivity


def _run_episodes(run: Run, pool: EnvPool, answers: dict[str, Answer], log: EpisodeLog) -> None:
    """Run what is not finished; all policies start from the same initial states."""
    config = run.config
    seeds = range(config.eval.first_seed, config.eval.first_seed + config.eval.episodes)
    total = len(answers) * len(config.env.tasks) * len(seeds)
    if len(log):
        run.log(f"{len(log)} of {total} episodes were finished before; going on with the others")
    with run.progress(total, "evaluating", unit="episode", start=len(log)) as bar:
        for name, answer in answers.items():
            asked = [Asked(task, at) for task in config.env.tasks for at in seeds if not log.has(name, task, at)]
            results = evaluate if name != BLIND else partial(_evaluate_blind, seeds=seeds)
            _run_policy(run, results(pool, asked, answer, on_wait=_shows(run, bar)), name, log, bar)


def _evaluate_blind(
    pool: EnvPool, asked: Sequence[Asked], answer: Answer, *, seeds: range, on_wait: Callable[[], None]
) -> Iterator[EpisodeResult]:
    """As `evaluate`, with the pictures of other episodes; task by task, since those pictures take memory."""
    for task in dict.fromkeys(each.task for each in asked):
        shown = pictures_of(pool, task, seeds[:SHOWN], answer, on_wait)
        blind = OtherPictures(answer, shown, seeds[0])
        yield from evaluate(pool, [each for each in asked if each.task == task], blind, on_wait=on_wait)


def _run_policy(run: Run, results: Iterator[EpisodeResult], name: str, log: EpisodeLog, bar: Progress) -> None:
    solved = sum(each.success for task in run.config.env.tasks for each in log.results(name, task))
    for result in results:
        log.add(name, result)
        solved += result.success
        bar.advance(**{f"{name} solved": solved})


def _shows(run: Run, bar: Progress) -> Callable[[], None]:
    """Keeps the bar up to date while no episode ends, and hears requests to leave."""

    def wait() -> None:
        leave_if_asked(run)
        bar.advance(0)

    return wait


def _film(run: Run, pool: EnvPool, answer: BatchedPolicy, log: EpisodeLog) -> list[str]:
    """Run some episodes once more with their frames kept: of each task its failures first. Gives the files' names.

    An episode is a pure function of (policy, task, seed), so it goes as it did; nothing is drawn for a film where none
    is wanted.
    """
    config, files = run.config, {}
    cameras = tuple(answer.policy.spec.cameras)
    for task in config.env.tasks:
        results = sorted(log.results(POLICY, task), key=lambda each: (each.success, each.seed))
        files.update({(task, each.seed): (_file(each), each) for each in results[: config.eval.videos]})
    if not files or not cameras:
        return []
    missing = [key for key, (name, _) in files.items() if not (run.folder / name).exists()]
    sweep_unfinished(run.folder / "videos")
    with run.progress(len(files), "filming", unit="video", start=len(files) - len(missing)) as bar:
        together = max(1, len({pool.worker(place) for place in range(pool.places)}))
        for start in range(0, len(missing), together):  # a few at a time: frames of an episode are many
            asked = [Asked(task, seed, cameras) for task, seed in missing[start : start + together]]
            for result in evaluate(pool, asked, answer, on_wait=lambda: leave_if_asked(run)):
                name, before = files[result.task, result.seed]
                if (result.success, result.steps) != (before.success, before.steps):
                    run.log(
                        f"Warning: {result.task}, initial state {result.seed}: {before.steps} steps when it was "
                        f"scored and {result.steps} when it was filmed. The suite's episodes are no function of "
                        "(task, initial state, actions), so their results cannot be repeated."
                    )
                write_video(run.folder / name, side_by_side(list(result.frames.values())), config.env.fps)
                bar.advance()
    return sorted(name for name, _ in files.values())


def _file(result: EpisodeResult) -> str:
    outcome = "success" if result.success else "failure"
    return f"videos/{result.task}_seed{result.seed}_{outcome}.mp4"


def _metrics(run: Run, suite: Suite, names: list[str], log: EpisodeLog, others: dict[str, Any]) -> dict[str, Any]:
    config = run.config
    results = {name: {task: log.results(name, task) for task in config.env.tasks} for name in names}
    return {
        "checkpoint": str(config.eval.checkpoint),
        "chunk_steps": config.chunk_size.steps,
        "execution": config.chunk_size.execution,
        "delay": config.chunk_size.delay,
        "hide_state": config.eval.hide_state,
        "fps": config.env.fps,
        **suite.provenance(),
        "policies": {name: _of_tasks(by_task) for name, by_task in results.items()},
        **others,
    }


def _of_tasks(by_task: dict[str, list[EpisodeResult]]) -> dict[str, Any]:
    everything = [episode for episodes in by_task.values() for episode in episodes]
    return {
        "all": _of_episodes(everything),
        "tasks": {task: _of_episodes(episodes) for task, episodes in by_task.items()},
    }


def _of_episodes(episodes: list[EpisodeResult]) -> SuccessMetrics:
    return success_metrics(
        np.array([episode.success for episode in episodes]),
        np.array([episode.seed for episode in episodes]),
        steps=np.array([episode.steps for episode in episodes]),
        max_rewards=[episode.max_reward for episode in episodes],
    )


def _max_reward(score: SuccessMetrics) -> str:
    """The mean of the largest rewards, as the log shows it beside a rate; nothing where the suite has no rewards."""
    if "mean_max_reward" not in score or "max_reward_interval" not in score:
        return ""
    low, high = (score["max_reward_interval"][end] for end in ("low", "high"))
    interval = f" [{low:.3f}, {high:.3f}]" if isinstance(low, float) and isinstance(high, float) else ""
    return f", max reward {score['mean_max_reward']:.3f}{interval}"


def _say(run: Run, metrics: dict[str, Any]) -> None:
    for name, entry in metrics["policies"].items():
        for task, score in {**entry["tasks"], "all tasks": entry["all"]}.items():
            interval = score["success_interval"]
            run.log(
                f"{name:7} {task:15} {score['num_success']:3}/{score['num_episodes']:<3} "
                f"{score['success_rate']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]{_max_reward(score)}"
            )
    run.log(f"videos: {Path(run.folder) / 'videos'}")
