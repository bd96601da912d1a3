"""Closed-loop success of an experiment's policies, beside controls, and their differences in pairs.

Evaluations that differ in the seed alone are one scored policy, which has the name of their runs. Two are compared
where they were evaluated in the same suite on the same tasks, episode by episode: the same training seed and initial
state on both sides. An experiment file that names its comparisons (`experiment.comparisons`) says by that which
policies are compared with which baseline. One policy evaluated in several suites is compared with itself in the first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from xp.checkpoints.reference import CheckpointRef
from xp.json_types import JSONObject
from xp.metrics.intervals import wilson
from xp.report.comparisons import ReplayDifference, asked_comparisons, equal_values, paired_grids
from xp.report.json_values import count, items, section
from xp.report.read import Entry, Experiment, flat

POLICY = "policy"
CONTROLS = {"noop": "doing nothing", "blind": "with the pictures of other episodes"}
"""The controls of an evaluation, and what they are called."""
_MOST_PAIRED = 6
"""So many policies are compared each with each; of more, each with the first."""
_NOT_THE_NAME = re.compile(r"^success_|-seed_\d+$")
_HIDDEN = "eval.hide_state"
_NOT_THE_SUITE = ("env.tasks", "env.cameras", "env.environment_state", "env.rendering")

type Outcomes = Mapping[tuple[int, str, int], bool]
"""Success by (training seed, task, initial state)."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Successes of all episodes, with Wilson's 95% interval."""

    successes: int
    episodes: int

    @property
    def value(self) -> float:
        """The share of successes."""
        return self.successes / self.episodes

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Low and high end."""
        return wilson(self.successes, self.episodes)


@dataclass(frozen=True, eq=False)
class ScoredPolicy:
    """Evaluations that differ in the seed alone, and the run that each of them evaluated (itself if not known)."""

    name: str
    evaluations: tuple[Entry, ...]
    trainings: tuple[Entry, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in their order."""
        return tuple(section(self.evaluations[0].metrics, "policies", POLICY, "tasks"))

    @property
    def suite(self) -> tuple[tuple[str, str], ...]:
        """Under what it was evaluated: keys of the section `env` but for tasks and pictures, and a hidden state."""
        known = self.evaluations[0].flat.items()
        found = [
            (key, str(value)) for key, value in known if key.startswith("env.") and not key.startswith(_NOT_THE_SUITE)
        ]
        return (*found, *((_HIDDEN, "True") for key, value in known if key == _HIDDEN and value))

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The folders of what was evaluated."""
        return tuple(str(section(each.config, "eval").get("checkpoint")) for each in self.evaluations)

    def outcomes(self, row: str = POLICY) -> Outcomes:
        """How the episodes of the policy, or of a control, went."""
        found: dict[tuple[int, str, int], bool] = {}
        for each in self.evaluations:
            seed = count(each.config.get("seed")) or 0
            for task, scores in section(each.metrics, "policies", row, "tasks").items():
                pairs = zip(items(section(scores).get("initial_states")), items(section(scores).get("successes")))
                found |= {(seed, task, state): bool(won) for at, won in pairs if (state := count(at)) is not None}
        return found

    def rate(self, row: str = POLICY) -> Rate | None:
        """Of all episodes of the policy, or of a control; None where it was not evaluated."""
        won = list(self.outcomes(row).values())
        return Rate(successes=sum(won), episodes=len(won)) if won else None

    def by_seed(self) -> list[float]:
        """The policy's rate of each training seed."""
        outcomes = self.outcomes()
        seeds = sorted({seed for seed, _, _ in outcomes})
        won = [[success for (at, _, _), success in outcomes.items() if at == seed] for seed in seeds]
        return [sum(each) / len(each) for each in won]

    @property
    def controls(self) -> dict[str, Rate]:
        """The rate of each control that was evaluated."""
        return {name: rate for name in CONTROLS if (rate := self.rate(name))}

    @property
    def is_above_controls(self) -> bool:
        """Whether its interval lies above those of all its controls, of which there is one."""
        rate, controls = self.rate(), self.controls
        if rate is None or not controls:
            return False
        return all(rate.interval[0] > each.interval[1] for each in controls.values())


@dataclass(frozen=True, eq=False)
class SuccessDifference:
    """The success rate of one policy minus that of another, over the episodes that both have."""

    first: ScoredPolicy
    second: ScoredPolicy
    found: ReplayDifference


@dataclass(frozen=True, eq=False)
class PolicySet:
    """Policies that are compared: each with the baseline, or without one each with each."""

    title: str
    policies: tuple[ScoredPolicy, ...]
    baseline: ScoredPolicy | None = None

    @property
    def pairs(self) -> list[tuple[ScoredPolicy, ScoredPolicy]]:
        """Who is compared with whom."""
        if self.baseline is None:
            return list(combinations(self.policies, 2))
        return [(policy, self.baseline) for policy in self.policies if policy is not self.baseline]

    @cached_property
    def differences(self) -> list[SuccessDifference]:
        """All differences that there are episodes for; their intervals hold together with 95% (Bonferroni)."""
        level = 1 - 0.05 / max(1, len(self.pairs))
        found = ((one, other, _difference(one, other, level)) for one, other in self.pairs)
        return [SuccessDifference(one, other, each) for one, other, each in found if each]


def scored_policies(experiment: Experiment) -> list[ScoredPolicy]:
    """All that were evaluated in closed loop, in the order of their runs."""
    found: dict[str, list[Entry]] = {}
    for run in experiment.runs:
        if run.task == "eval" and section(run.metrics, "policies", POLICY) and run.standing == "done":
            found.setdefault(_NOT_THE_NAME.sub("", run.name), []).append(run)
    return [
        ScoredPolicy(name, tuple(runs), tuple(_trained(experiment, run) for run in runs))
        for name, runs in found.items()
    ]


def policy_sets(experiment: Experiment) -> list[PolicySet]:
    """Which policies are compared: as the experiment file says, else all of a suite and its tasks; and suites."""
    scored = scored_policies(experiment)
    asked = next((found for run in experiment.runs if (found := asked_comparisons(run.config))), [])
    sets = [each for entry in asked for each in _asked_sets(entry, scored)] if asked else _alike(scored)
    return [each for each in [*sets, *_across_suites(scored)] if each.differences]


def _asked_sets(entry: JSONObject, scored: Sequence[ScoredPolicy]) -> Iterator[PolicySet]:
    """The policies of a stage beside the baseline, one set for each suite in which they were evaluated."""
    stage, wanted = entry.get("stage"), flat(section(entry, "baseline"))
    members = [policy for policy in scored if policy.trainings[0].stage == stage]
    beside = [policy for policy in scored if policy.trainings[0].stage == entry.get("baseline_stage", stage)]
    fitting = [
        policy for policy in beside if all(equal_values(policy.trainings[0].flat.get(k), v) for k, v in wanted.items())
    ]
    title = str(entry.get("title", stage))
    for suite in dict.fromkeys(policy.suite for policy in members):
        baseline = next((policy for policy in fitting if policy.suite == suite), None)
        same = tuple(policy for policy in members if policy.suite == suite)
        yield PolicySet(f"{title}, without the state" if (_HIDDEN, "True") in suite else title, same, baseline)


def _alike(scored: Sequence[ScoredPolicy]) -> Iterator[PolicySet]:
    """Policies of one suite and the same tasks."""
    groups: dict[tuple[object, tuple[str, ...]], list[ScoredPolicy]] = {}
    for policy in scored:
        groups.setdefault((policy.suite, policy.tasks), []).append(policy)
    for (_, tasks), members in groups.items():
        suite = dict(members[0].suite).get("env.suite")
        title = ", ".join(tasks) if len(tasks) <= 2 else f"{len(tasks)} tasks"
        baseline = members[0] if len(members) > _MOST_PAIRED else None
        yield PolicySet(f"{suite}: {title}" if suite else title, tuple(members), baseline)


def _across_suites(scored: Sequence[ScoredPolicy]) -> Iterator[PolicySet]:
    """One policy in several suites: each with the first, on the same tasks."""
    groups: dict[tuple[str, ...], list[ScoredPolicy]] = {}
    for policy in scored:
        groups.setdefault(policy.checkpoints, []).append(policy)
    for members in groups.values():
        first = members[0]
        others = [policy for policy in members[1:] if policy.suite != first.suite]
        if others:
            hidden = all((_HIDDEN, "True") in policy.suite for policy in others)
            yield PolicySet(f"{first.name} {'without its state' if hidden else 'elsewhere'}", tuple(others), first)


def _difference(one: ScoredPolicy, other: ScoredPolicy, level: float) -> ReplayDifference | None:
    left, right = one.outcomes(), other.outcomes()
    units = {unit: number for number, unit in enumerate(sorted({(task, at) for _, task, at in [*left, *right]}))}
    grids = [
        {(seed, units[task, state]): float(won) for (seed, task, state), won in outcomes.items()}
        for outcomes in (left, right)
    ]
    return paired_grids(grids[0], grids[1], level)


def _trained(experiment: Experiment, run: Entry) -> Entry:
    """The run whose policy was evaluated; the evaluation itself where it is not of this experiment."""
    name = CheckpointRef.parse(str(section(run.config, "eval").get("checkpoint") or "")).path.name
    return next((other for other in experiment.runs if name and other.name == name), run)
