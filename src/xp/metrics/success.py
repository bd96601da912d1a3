# pyright: strict
"""Closed-loop success as a record: the rate, its interval, and every episode behind it."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Int

from xp.array_types import Bools, Ints
from xp.metrics.intervals import Interval, Sums, bootstrap, wilson


class WilsonInterval(TypedDict):
    """An interval of a success rate."""

    low: float
    high: float
    level: float
    method: str


class SuccessMetrics(TypedDict):
    """What `success_metrics` gives: the rate (None without episodes) and every episode behind it."""

    success_rate: float | None
    success_interval: WilsonInterval
    num_episodes: int
    num_success: int
    initial_states: list[int]
    successes: list[bool]
    steps: NotRequired[list[int]]
    max_rewards: NotRequired[list[float]]
    mean_max_reward: NotRequired[float]
    max_reward_interval: NotRequired[Interval]


def success_metrics(
    successes: Sequence[bool] | Bool[Bools, " episodes"],
    seeds: Sequence[int] | Int[Ints, " episodes"],
    *,
    steps: Int[Ints, " episodes"] | None = None,
    max_rewards: Sequence[float | None] = (),
) -> SuccessMetrics:
    """Outcomes [E] of episodes started from `seeds` [E] (and their lengths `steps` [E]) as plain JSON values.

    The rate carries its Wilson 95% interval; the list of initial states lets anybody repeat any episode. Where every
    episode has a largest reward (`max_rewards` [E]), their mean stands beside the rate with its bootstrap 95% interval.
    """
    outcomes = np.asarray(successes, dtype=bool)
    assert len(outcomes) == len(seeds), f"{len(outcomes)} outcomes for {len(seeds)} initial states"
    low, high = wilson(int(outcomes.sum()), len(outcomes))
    result: SuccessMetrics = {
        "success_rate": float(outcomes.mean()) if len(outcomes) else None,
        "success_interval": {"low": low, "high": high, "level": 0.95, "method": "wilson"},
        "num_episodes": len(outcomes),
        "num_success": int(outcomes.sum()),
        "initial_states": np.asarray(seeds).tolist(),
        "successes": outcomes.tolist(),
    }
    if steps is not None:
        result["steps"] = np.asarray(steps).tolist()
    rewards = [reward for reward in max_rewards if reward is not None]
    if rewards and len(rewards) == len(outcomes):
        values, number = np.array(rewards), len(rewards)
        sums = Sums(episodes=np.arange(number), sums=values, counts=np.ones(number), windows=number)
        result["max_rewards"] = rewards
        result["mean_max_reward"] = float(values.mean())
        result["max_reward_interval"] = bootstrap(sums)
    return result
