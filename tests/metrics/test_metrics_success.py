"""Claims about the record of closed-loop episodes: the rate, and the rewards beside it where a suite has them."""

import numpy as np
import pytest

from xp.metrics.success import success_metrics


def test_rewards_of_all_episodes_stand_beside_the_rate_with_an_interval():
    metrics = success_metrics([True, False, False, False], [7, 8, 9, 10], max_rewards=[1.0, 0.5, 0.25, 0.25])
    assert metrics["success_rate"] == 0.25 and metrics["success_interval"]["method"] == "wilson"
    assert metrics.get("mean_max_reward") == 0.5 and metrics.get("max_rewards") == [1.0, 0.5, 0.25, 0.25]
    interval = metrics.get("max_reward_interval")
    assert interval is not None and isinstance(interval["low"], float) and isinstance(interval["high"], float)
    assert 0.25 <= interval["low"] < 0.5 < interval["high"] <= 1.0 and interval["n_episodes"] == 4


@pytest.mark.parametrize("rewards", [(), [None, None], [0.5, None]])
def test_without_a_reward_of_every_episode_there_is_no_mean(rewards):
    metrics = success_metrics([True, False], [0, 1], steps=np.array([3, 4]), max_rewards=rewards)
    assert "mean_max_reward" not in metrics and metrics.get("steps") == [3, 4]


def test_one_episode_has_a_reward_and_no_interval():
    interval = success_metrics([False], [3], max_rewards=[0.75]).get("max_reward_interval")
    assert interval is not None and interval["low"] is None and interval["high"] is None
