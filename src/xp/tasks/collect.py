"""`xp task=collect`: record episodes of a simulated suite as a dataset (`collect.format`)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xp.data import writing_format
from xp.envs import Episode, Suite
from xp.envs.maker import EnvMaker
from xp.envs.suite import refuse_missing_states
from xp.errors import UserError, join_names
from xp.metrics.success import success_metrics
from xp.models.families import locate
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked
from xp.tasks._lib.pools import Processes, in_order, workers_of
from xp.tasks._lib.recorders import ExpertRecorder, PolicyRecorder, Recorder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xp.data import DatasetWriter

ATTEMPTS = 3
"""How many initial states are tried for each wanted episode before collecting gives up."""


def run(run: Run) -> None:
    """Leaves a dataset at data.root, which appears whole or not at all, and every attempt's outcome in summary.json."""
    config = run.config
    if config.collect.histories is not None:
        from xp.tasks._lib.histories import record_histories

        record_histories(run)
        return
    envs = EnvMaker.of(config.env, environment_state=config.env.environment_state)
    suite = envs.suite
    _refuse_unseen(envs)
    _refuse_impossible(config, suite)
    root = Path(config.data.root)
    with writing_format(config.collect.format, "collect.format").create(
        root,
        fps=config.env.fps,
        cameras=dict(envs.cameras),
        state_names=suite.state_names,
        action_names=suite.action_names,
        environment_state_names=suite.environment_state_names if envs.environment_state else (),
        robot_type=suite.robot_type,
        use_videos=config.collect.use_videos,
        overwrite=run.resuming or root.resolve().is_relative_to(run.folder.resolve()),
    ) as writer:
        attempts = _record(run, envs, writer)
    run.write_summary(_summary(run, suite, root, attempts))
    run.log(f"{sum(map(len, attempts.values()))} episodes attempted; the dataset is {root}")


def _refuse_unseen(envs: EnvMaker) -> None:
    """Refuse a recording in which nothing could be seen but the robot's own state."""
    if envs.cameras or envs.environment_state:
        return
    suite = envs.suite
    name, (height, width) = next(iter(suite.default_cameras.items()), ("NAME", (96, 96)))
    told = ", or record where things are: env.environment_state=true" if suite.environment_state_names else ""
    raise UserError(
        f"env.cameras={{}}: nothing would be recorded but the robot's own state. The suite {suite.name} has the "
        f"cameras {join_names(suite.camera_names)}: type for instance "
        f"'env.cameras={{{name}: [{height}, {width}]}}'{told}"
    )


def _refuse_impossible(config: "DictConfig", suite: Suite) -> None:
    """A policy that is not there, or more than the suite offers, before a writer is imported (up to ten seconds)."""
    collect = config.collect
    refuse_missing_states(suite, collect.first_seed, collect.episodes, ("collect.first_seed", "collect.episodes"))
    if collect.policy != "expert":
        if collect.label != "executed":
            raise UserError(
                f"collect.label={collect.label} is about the noise of a suite's expert, and collect.policy="
                f"{collect.policy} acts without any. Type collect.label=executed."
            )
        if collect.noise:
            raise UserError(
                f"collect.noise={collect.noise} is noise on the actions of a suite's expert, and collect.policy="
                f"{collect.policy} acts without any. Type collect.noise=0"
            )
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
                leave_if_asked(run)
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
            _require(config, task, written, outcomes)
    return attempts


def _require(config: "DictConfig", task: str, written: int, attempts: Sequence[Episode]) -> None:
    wanted, limit = config.collect.episodes, config.env.max_steps
    if written >= wanted:
        return
    cut_off = sum(not episode.success and len(episode.action) == limit for episode in attempts)
    said, ways = "", ["collect.keep_failures=true to keep failed ones"]
    if cut_off:
        said = f"; {cut_off} ended at env.max_steps={limit} without success"
        ways.insert(0, "more steps (env.max_steps=null: the suite's own limit)")
    if config.collect.policy != "expert":
        ways.append("a better policy (collect.policy=expert)")
    raise UserError(
        f"Only {written} of {len(attempts)} attempts at {task} succeeded, {wanted} episodes are wanted{said}. "
        f"Give {', or '.join(ways)}."
    )


def _source(run: Run, envs: EnvMaker, stack: ExitStack) -> Callable[[str], Iterator[Episode]]:
    """A function: task name -> its recorded episodes, in the order of their seeds."""
    config = run.config
    last = config.collect.first_seed + ATTEMPTS * config.collect.episodes
    known = envs.suite.num_initial_states
    seeds = range(config.collect.first_seed, last if known is None else min(last, known))

    def leave_when_asked(seed: int = 0, step: int = 0) -> None:
        leave_if_asked(run)

    if config.collect.policy != "expert":
        policy = PolicyRecorder.load(config, envs)
        return lambda task: policy.episodes(task, seeds, leave_when_asked)
    expert = ExpertRecorder(envs, config.collect.noise, config.collect.label)
    workers = workers_of(config.collect.workers)
    if workers == 1:
        return lambda task: (expert(task, seed, leave_when_asked) for seed in seeds)
    processes = stack.enter_context(Processes(workers))
    return lambda task: in_order(processes, partial(_recorded, expert, task), seeds, leave_when_asked)


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
                max_rewards=[episode.max_reward for episode in outcomes],
            )
            for task, outcomes in attempts.items()
        },
    }
