"""What tasks share that act in many envs at once: returns of a policy or an expert from a list of initial states."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from xp.envs.batch import Attempt, BatchActor, BatchEnv, BatchSuite, attempts
from xp.errors import UserError
from xp.metrics.intervals import Interval, Sums, bootstrap
from xp.runs import Run
from xp.runs.execution.run import leave_if_asked

if TYPE_CHECKING:
    from xp.models.policy import InContextPolicy, Policy


class ReturnMetrics(TypedDict):
    """Returns of attempts, as metrics.json has them."""

    mean_return: float
    return_interval: Interval
    mean_length: float
    num_attempts: int
    share_ended: float
    """Of attempts that ended before the limit."""
    seeds: list[int]
    returns: list[float]
    lengths: list[int]


def in_context(policy: "Policy", path: str, key: str) -> "InContextPolicy":
    """The policy, if it acts by its history of rewards.

    Raises:
        UserError: it does not.
    """
    from xp.models.policy import InContextPolicy

    if isinstance(policy, InContextPolicy):
        return policy
    raise UserError(
        f"{key}={path}: this policy does not act by the history of its rewards, so it cannot be asked step by step. "
        "Give one that does, trained on trajectories with rewards; others are scored by eval=closed_loop"
    )


def made_by(
    run: Run,
    suite: BatchSuite,
    task: str,
    actor: Callable[[BatchEnv], BatchActor],
    seeds: Sequence[int],
    *,
    envs: int,
    threads: int = 1,
    max_steps: int | None = None,
    forgets: bool = False,
) -> list[Attempt]:
    """One attempt from each of `seeds`, in their order; `envs` side by side take them in turn.

    Args:
        run: is asked to stop between attempts.
        suite: of the envs.
        task: its task.
        actor: makes who acts in them.
        seeds: initial states.
        envs: at most so many side by side.
        threads: of the physics.
        max_steps: a shorter limit than the suite's.
        forgets: whether the actor's memory begins anew with each attempt.
    """
    count = min(envs, len(seeds))
    plan = [list(seeds[row::count]) for row in range(count)]
    found: dict[int, Attempt] = {}
    with closing(suite.make_batch(task, count, threads=threads)) as env:
        for made in attempts(env, actor(env), plan, forgets=forgets, max_steps=max_steps):
            found[made.seed] = made
            leave_if_asked(run)
    return [found[seed] for seed in seeds]


def return_metrics(made: Sequence[Attempt]) -> ReturnMetrics:
    """Mean return with its interval over attempts, and each attempt."""
    returns = np.array([each.total for each in made])
    lengths = [len(each.reward) for each in made]
    each = np.arange(len(made))
    interval = bootstrap(Sums(episodes=each, sums=returns, counts=np.ones(len(made)), windows=len(made)))
    return {
        "mean_return": float(returns.mean()),
        "return_interval": interval,
        "mean_length": float(np.mean(lengths)),
        "num_attempts": len(made),
        "share_ended": float(np.mean([each.ended for each in made])),
        "seeds": [each.seed for each in made],
        "returns": returns.tolist(),
        "lengths": lengths,
    }
