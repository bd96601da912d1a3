"""`xp task=collect`: record episodes of a simulated suite as a LeRobotDataset."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import TimeoutError, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xp.envs import Episode, Suite
from xp.envs.suite import refuse_missing_states
from xp.errors import UserError
from xp.metrics.success import success_metrics
from xp.models.families import locate
from xp.runs import Run
from xp.tasks._lib.recorders import EnvMaker, ExpertRecorder, PolicyRecorder, Recorder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.data import DatasetWriter

ATTEMPTS = 3
"""How many initial states are tried for each wanted episode before collecting gives up."""
HEARD_EVERY_S = 0.1
"""How often it is asked whether to leave while an episode is recorded elsewhere."""


def run(run: Run) -> None:
    """Leaves a dataset at data.root, which appears whole or not at all, and every attempt's outcome in summary.json."""
    config = run.config
    envs = EnvMaker.of(config.env, environment_state=config.env.environment_state)
    suite = envs.suite
    _refuse_impossible(config, suite)

    from xp.data import DatasetWriter

    root = Path(config.data.root)
    writer = DatasetWriter(
        root,
        fps=config.env.fps,
        cameras=dict(envs.cameras),
        state_names=suite.state_names,
        action_names=suite.action_names,
        environment_state_names=suite.environment_state_names if envs.environment_state else (),
        robot_type=suite.robot_type,
        use_videos=config.collect.use_videos,
        overwrite=run.resuming or root.resolve().is_relative_to(run.folder.resolve()),
    )
    with writer:
        attempts = _record(run, envs, writer)
    run.write_summary(_summary(run, suite, root, attempts))
    run.log(f"{sum(map(len, attempts.values()))} episodes attempted; the dataset is {root}")


def _refuse_impossible(config: "DictConfig", suite: Suite) -> None:
    """A policy that is not there, or more than the suite offers, before LeRobot's writer is imported (ten seconds)."""
    collect = config.collect
    refuse_missing_states(suite, collect.first_seed, collect.episodes, ("collect.first_seed", "collect.episodes"))
    if collect.policy != "expert":
        locate(collect.policy)
        return
    bearable = suite.max_expert_noise
    if bearable is None:
        raise UserError(
            f"collect.policy=expert: the suite {suite.name} has no expert. Record a policy: collect.policy=POLICY, a "
            "run folder or a policy folder."
        )
    if collect.noise > bearable:
        raise UserError(
            f"collect.noise={collect.noise}: must be between 0 and {bearable:g}, above which the expert of the suite "
            f"{suite.name} itself fails."
        )


def _record(run: Run, envs: EnvMaker, writer: "DatasetWriter") -> dict[str, list[Episode]]:
    """Write the wanted episodes of every task; returns what came of every attempt, without its pictures."""
    config = run.config
    wanted = config.collect.episodes
    attempts: dict[str, list[Episode]] = {task: [] for task in config.env.tasks}
    with ExitStack() as stack, run.progress(wanted * len(attempts), "collecting", unit="episode") as bar:
        source = _source(run, envs, stack)
        for task, outcomes in attempts.items():
            written = 0
            for episode in source(task):
                if run.should_stop():
                    raise run.interrupted
                outcomes.append(replace(episode, images={}))
                if episode.success or config.collect.keep_failures:
                    writer.add_episode(
                        envs.suite.tasks[task],
                        episode.images,
                        episode.state,
                        episode.action,
                        environment_state=episode.environment_state,
                    )
                    written += 1
                    bar.advance()
                if written == wanted:
                    break
            _require(task, written, wanted, len(outcomes))
    return attempts


def _require(task: str, written: int, wanted: int, attempts: int) -> None:
    if written < wanted:
        raise UserError(
            f"Only {written} of {attempts} attempts at {task} succeeded, {wanted} episodes are wanted. Give "
            "collect.keep_failures=true to keep failed ones, or a better policy (collect.policy=expert)."
        )


def _source(run: Run, envs: EnvMaker, stack: ExitStack) -> Callable[[str], Iterator[Episode]]:
    """A function: task name -> its recorded episodes, in the order of their seeds."""
    config = run.config
    last = config.collect.first_seed + ATTEMPTS * config.collect.episodes
    known = envs.suite.num_initial_states
    seeds = range(config.collect.first_seed, last if known is None else min(last, known))

    def leave_when_asked(seed: int = 0, step: int = 0) -> None:
        if run.should_stop():
            raise run.interrupted

    if config.collect.policy != "expert":
        policy = PolicyRecorder.load(config, envs)
        return lambda task: (policy(task, seed, leave_when_asked) for seed in seeds)
    expert = ExpertRecorder(envs, config.collect.noise)
    workers = config.collect.workers or min(len(os.sched_getaffinity(0)), 8)
    if workers == 1:
        return lambda task: (expert(task, seed, leave_when_asked) for seed in seeds)
    pool = stack.enter_context(_pool(workers))
    return lambda task: _in_time(pool.imap(partial(_recorded, expert, task), seeds), leave_when_asked)


def _pool(workers: int) -> Any:
    """Worker processes that leave Ctrl-C to this one, which ends them; it reaches every process of the terminal."""
    if threading.current_thread() is not threading.main_thread():
        return get_context("spawn").Pool(workers)
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is ignored stays so in a new process
    try:
        return get_context("spawn").Pool(workers)
    finally:
        signal.signal(signal.SIGINT, heard)


def _in_time(recorded: Any, leave_when_asked: Callable[[], None]) -> Iterator[Episode]:
    """The episodes that a pool records; while one is recorded, requests to leave are heard."""
    while True:
        leave_when_asked()
        try:
            episode = recorded.next(timeout=HEARD_EVERY_S)
        except TimeoutError:
            continue
        except StopIteration:
            return
        yield episode


def _recorded(recorder: Recorder, task: str, seed: int) -> Episode:
    return recorder(task, seed)


def _summary(run: Run, suite: Suite, root: Path, attempts: dict[str, list[Episode]]) -> dict[str, Any]:
    config = run.config
    return {
        "task": "collect",
        "root": str(root),
        "policy": config.collect.policy,
        **suite.provenance(),
        "fps": config.env.fps,
        "tasks": {
            task: success_metrics(
                np.array([episode.success for episode in outcomes]),
                np.array([episode.seed for episode in outcomes]),
                steps=np.array([len(episode.action) for episode in outcomes]),
            )
            for task, outcomes in attempts.items()
        },
    }
