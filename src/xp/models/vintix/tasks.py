"""What a Vintix model knows of each task: its group, its widths, and by what it normalises. Pure numpy.

A *task* has statistics of its own (one robot, one dataset); tasks of one *group* share encoders and decoder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from xp.errors import UserError, join_names
from xp.foreign.statistics import FeatureStatistics
from xp.foreign.text import printable
from xp.json_types import JSON, JSONObject
from xp.models.policy import GroupSpec, Statistics

EPSILON = 1e-6
"""The original's: normalised = (x - mean) / (std + epsilon)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation (one degree of freedom less than rows) of each dimension."""

    mean: Float32[np.ndarray, " dim"]
    std: Float32[np.ndarray, " dim"]

    @classmethod
    def of(cls, statistics: FeatureStatistics, rows: int) -> "Moments":
        """Those of a dataset's statistics, whose std is that of the population; 1 where a dimension never changes.

        The original divides such a dimension by its epsilon: a value that then moves after all grows a millionfold.
        """
        std = np.asarray(statistics["std"], np.float64) * math.sqrt(rows / max(rows - 1, 1))
        varies = np.asarray(statistics["mask"], bool)
        return cls(np.asarray(statistics["mean"], np.float32), np.where(varies, std, 1.0).astype(np.float32))

    @classmethod
    def measured(cls, values: np.ndarray) -> "Moments":
        """Those of rows [n, dim], n of at least 2; std 1 where a dimension never changes."""
        wide = np.asarray(values, np.float64)
        std = wide.std(0, ddof=1)
        return cls(wide.mean(0).astype(np.float32), np.where(std > EPSILON, std, 1.0).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Task:
    """One task of a model."""

    name: str
    group: str
    state_dim: int
    action_dim: int
    reward_scale: float
    observation: Moments
    action: Moments
    more: JSONObject = field(default_factory=dict)
    """Fields of its entry in metadata.json that mean nothing to the network; they are kept."""

    def metadata(self) -> dict[str, JSON]:
        """Its entry in metadata.json, in the original's form."""
        return {
            **self.more,
            "observation_shape": {"proprio": [self.state_dim]},
            "action_dim": self.action_dim,
            "action_type": "continuous",
            "group_name": self.group,
            "reward_scale": self.reward_scale,
            "obs_mean": _floats(self.observation.mean),
            "obs_std": _floats(self.observation.std),
            "acs_mean": _floats(self.action.mean),
            "acs_std": _floats(self.action.std),
        }


def _floats(values: np.ndarray) -> list[JSON]:
    return [float(value) for value in values]


UNNAMED = "robot"
"""What the one task of data without groups is called, unless they have a single task with a name of its own."""


@dataclass(frozen=True, eq=False)
class Tasks:
    """All tasks of a model, in the order of their numbers."""

    all: tuple[Task, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(task.name for task in self.all)

    @property
    def groups(self) -> dict[str, tuple[int, int]]:
        """{group: (S, A)}, in the order in which they first come."""
        return {task.group: (task.state_dim, task.action_dim) for task in self.all}

    def number(self, name: str) -> int:
        """The number of a task. Where there is one task only, no name ("") means that one.

        A model of data without groups has the one task `UNNAMED`: their tasks are texts, and all of them are it.

        Raises:
            UserError: it has none of that name.
        """
        if name in self.names:
            return self.names.index(name)
        if len(self.all) == 1 and (not name or self.names == (UNNAMED,)):
            return 0
        raise UserError(
            f"This Vintix model knows no task '{printable(name, 80)}': it has encoders for {join_names(self.names)}. "
            "Name one of them as the observation's `task`, or train the model on that task's trajectories."
        )

    def with_data(self, groups: Sequence[GroupSpec], statistics: Statistics) -> "Tasks":
        """These tasks, and those of a dataset that are not among them.

        Raises:
            UserError: a task or group of the dataset has other widths than the model's.
        """
        known = {task.name: task for task in self.all}
        found = dict(known)
        if len(groups) > 1 and not statistics.get("groups"):
            raise UserError(
                "The statistics that are given (data.statistics) know no groups, and the dataset has several tasks: "
                f"{join_names(group.name for group in groups)}. Leave data.statistics out, or give statistics with "
                "an entry for each."
            )
        for group in groups:
            task = _of_data(group, statistics)
            if task is None:
                continue
            there = next((each for each in known.values() if task.name == each.name or task.group == each.group), task)
            if (there.state_dim, there.action_dim) != (task.state_dim, task.action_dim):
                raise UserError(
                    f"The task '{printable(task.name)}' of the dataset has {task.state_dim} observed numbers and "
                    f"{task.action_dim} actions; the model's '{printable(there.name)}' of the group "
                    f"'{printable(there.group)}' has {there.state_dim} and {there.action_dim}. Give the trajectories "
                    "a task_name and group_name of their own, in their JSON file."
                )
            found.setdefault(task.name, task)
        return Tasks(tuple(found.values()))


def _of_data(group: GroupSpec, statistics: Statistics) -> Task | None:
    """A dataset's group as a task; None where no training episode is of it."""
    known = statistics.get("groups", {})
    if known and group.name not in known:
        return None
    own: Mapping[str, FeatureStatistics] = known[group.name] if known else statistics  # pyright: ignore[reportAssignmentType]
    rows = int(known[group.name]["num_transitions"] if known else statistics.get("num_transitions", 0))
    return Task(
        name=group.name,
        group=group.parameter_group,
        state_dim=group.state_dim,
        action_dim=group.action_dim,
        reward_scale=group.reward_scale,
        observation=Moments.of(own["proprio"], rows),
        action=Moments.of(own["action"], rows),
    )
