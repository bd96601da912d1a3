"""Statistics of a mixture: each dataset's own, by its name, and those of values that these have normalised."""

import numpy as np

from xp.data.mixture.members import Mixture
from xp.data.statistics import compute_statistics, describe
from xp.foreign.statistics import DatasetStatistics, GroupStatistics


def mixture_statistics(mixture: Mixture) -> DatasetStatistics:
    """Statistics of the training episodes of each dataset, of its actions as a step of the mixture does them.

    Returns:
        `members`: {name: those of the dataset, as wide as its own numbers}; `action` [A] and `proprio` [S] are those of
        values that were normalised by their own dataset's: mean 0, deviation 1, bounds and quantiles -1 and 1;
        `environment_state` of all datasets together, where they have one of the same width.
    """
    found: dict[str, GroupStatistics] = {}
    for member in mixture.members:
        own = compute_statistics(member.dataset, member.split.train)
        found[member.name] = {
            "action": own["action"],
            "proprio": own["proprio"],
            "num_transitions": own.get("num_transitions", 0),
            "num_trajectories": own.get("num_trajectories", 0),
        }
    whole: DatasetStatistics = {
        "action": normalised(mixture.action_dim),
        "proprio": normalised(mixture.state_dim),
        "num_transitions": sum(each["num_transitions"] for each in found.values()),
        "num_trajectories": sum(each["num_trajectories"] for each in found.values()),
        "members": found,
    }
    if mixture.environment_dim:
        rows = [member.dataset.rows(member.split.train) for member in mixture.members]
        values = [member.dataset.environment_state[own] for member, own in zip(mixture.members, rows, strict=True)]
        whole["environment_state"] = describe(np.concatenate(values))
    return whole


def normalised(width: int) -> dict[str, np.ndarray]:
    """Statistics [D] by which every rule of normalisation changes nothing."""
    one = np.ones(width, np.float32)
    ends = {"min": -one, "max": one, "p01": -one, "p99": one}
    return {"mean": 0 * one, "std": one, **ends, "mask": np.ones(width, dtype=bool)}
