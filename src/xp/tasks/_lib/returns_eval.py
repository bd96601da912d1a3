"""`xp task=eval eval=returns`: returns of a policy that acts by its history of rewards, or of the expert."""

from typing import TYPE_CHECKING

from xp import atomic
from xp.envs.batch import BatchActor, BatchEnv, BatchSuite, batch_suite
from xp.envs.suite import refuse_missing_states, suite_of
from xp.runs import Run
from xp.tasks._lib.attempting import in_context, made_by, return_metrics

if TYPE_CHECKING:
    from xp.models.policy import InContextPolicy

METRICS = "metrics.json"


def run(run: Run) -> None:
    """Leaves metrics.json: of each task the mean return with its interval, and every attempt."""
    config, asked = run.config, run.config.eval
    suite = batch_suite(suite_of(config.env), "eval=returns")
    refuse_missing_states(suite, asked.first_seed, asked.episodes, ("eval.first_seed", "eval.episodes"))
    policy = None if asked.checkpoint is None else _policy(run, suite)
    seeds = range(asked.first_seed, asked.first_seed + asked.episodes)
    metrics = {}
    for task in config.env.tasks:

        def actor(env: BatchEnv, task: str = task) -> BatchActor:
            if policy is None:
                return suite.batch_expert(env)
            return policy.acting_in([suite.tasks[task]] * env.count, mode=asked.mode, context=asked.context_len)

        made = made_by(
            run,
            suite,
            task,
            actor,
            seeds,
            envs=asked.num_envs,
            threads=asked.parallel,
            max_steps=asked.max_steps,
            forgets=policy is not None,
        )
        metrics[task] = return_metrics(made)
        found = metrics[task]
        interval = found["return_interval"]
        run.log(
            f"{task}: return {found['mean_return']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}] over "
            f"{found['num_attempts']} attempts of {found['mean_length']:.0f} steps on average"
        )
    atomic.write_json(run.folder / METRICS, {"fps": config.env.fps, **suite.provenance(), "tasks": metrics})
    run.write_summary({"task": "eval", "returns": {task: found["mean_return"] for task, found in metrics.items()}})


def _policy(run: Run, suite: BatchSuite) -> "InContextPolicy":
    """The policy, where it is asked for with the robot's task copied from a reference."""
    from xp.tasks._lib.loading import load

    asked = run.config.eval
    policy = in_context(load(run.config, asked.checkpoint), asked.checkpoint, "eval.checkpoint")
    if asked.reference is None:
        return policy
    for task in run.config.env.tasks:
        signs = suite.signs
        policy = policy.with_task(suite.tasks[task], reference=asked.reference, key="eval.reference", signs=signs)
    return policy
