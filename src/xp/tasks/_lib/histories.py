"""`xp task=collect collect.histories=N`: learning histories, made in many envs at once, with their rewards."""

from contextlib import closing
from pathlib import Path

from xp.data.writer import rewarding_format
from xp.envs.batch import Attempt, BatchActor, BatchEnv, BatchSuite, attempts, batch_suite
from xp.envs.exploring import Annealed
from xp.envs.suite import suite_of
from xp.errors import UserError
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked
from xp.tasks._lib.attempting import in_context, return_metrics


def record_histories(run: Run) -> None:
    """Leaves a dataset at data.root, whole or not at all: `histories` of `episodes` attempts each; and summary.json.

    The noise of a history begins with all actions and ends with none, so it shows an agent that learns. An attempt
    follows from (seed, its own seed) alone: a run that was killed makes them again, none is lost and none is double.
    """
    config, collect = run.config, run.config.collect
    suite = batch_suite(suite_of(config.env), "collect.histories")
    if len(config.env.tasks) != 1:
        raise UserError(
            f"env.tasks={list(config.env.tasks)}: a dataset of histories holds one task. Record each in a folder of "
            "its own, side by side: data.root=FOLDER/TASK"
        )
    task, root = str(config.env.tasks[0]), Path(config.data.root)
    made: list[Attempt] = []
    with rewarding_format(collect.format).create(
        root,
        fps=config.env.fps,
        cameras={},
        state_names=suite.state_names,
        action_names=suite.action_names,
        robot_type=suite.robot_type,
        overwrite=run.resuming or root.resolve().is_relative_to(run.folder.resolve()),
    ) as writer:
        for each in _attempts(run, suite, task):
            text = suite.tasks[task]
            writer.add_episode(
                text, {}, each.state, each.action, reward=each.reward, truncated=not each.ended, history=each.row
            )
            made.append(each)
    made.sort(key=lambda each: each.seed)
    run.write_summary({"task": "collect", "root": str(root), **suite.provenance(), "attempts": return_metrics(made)})
    run.log(f"{len(made)} attempts in {collect.histories} histories; the dataset is {root}")


def _attempts(run: Run, suite: BatchSuite, task: str) -> list[Attempt]:
    """All attempts, history by history."""
    collect, found = run.config.collect, []
    plan = [
        list(range(collect.first_seed + row * collect.episodes, collect.first_seed + (row + 1) * collect.episodes))
        for row in range(collect.histories)
    ]
    noise = Annealed(collect.histories, run.config.seed, span=collect.span) if collect.anneal else None
    threads = collect.workers or 1
    with (
        closing(suite.make_batch(task, collect.histories, threads=threads)) as env,
        run.progress(collect.histories * collect.episodes, "collecting", unit="attempt") as bar,
    ):
        for each in attempts(env, _actor(run, suite, env, task), plan, noise=noise, max_steps=collect.max_steps):
            found.append(each)
            bar.advance()
            leave_if_asked(run)
    return sorted(found, key=lambda each: each.seed)


def _actor(run: Run, suite: BatchSuite, env: BatchEnv, task: str) -> BatchActor:
    path = run.config.collect.policy
    if path == "expert":
        return suite.batch_expert(env)
    from xp.tasks._lib.loading import load

    policy = in_context(load(run.config, path, run.config.collect), path, "collect.policy")
    return policy.acting_in([suite.tasks[task]] * env.count)
