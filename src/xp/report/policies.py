"""Policies of one experiment side by side: those that were merged, the results of merging, and a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xp.checkpoints.reference import CheckpointRef
from xp.json_types import JSON, JSONObject
from xp.metrics.intervals import PairedDifference, Sums, paired_difference
from xp.metrics.scores import sums_from_episodes
from xp.report.estimates import MAE, Estimate, estimate_from
from xp.report.json_values import is_number, items, real, section
from xp.report.read import Entry, Experiment
from xp.report.results import SuccessRate, successes

SINGLE, MERGE, REFERENCE = "single", "merge", "reference"
LOSS, ERROR, RATE = "loss", "MAE", "success"
MEASURES = (LOSS, ERROR, RATE)


@dataclass(frozen=True, kw_only=True)
class EvaluatedPolicy:
    """One policy and what was measured of it. `kind` is single (an input of a merge), merge, or reference."""

    run: Entry
    kind: str
    prediction: Entry | None = None
    evaluation: Entry | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @cached_property
    def loss(self) -> Estimate | None:
        """The training objective on test windows."""
        return _loss(self.prediction.metrics) if self.prediction else None

    @cached_property
    def error(self) -> Estimate | None:
        """Mean absolute action error on test episodes."""
        return MAE.of(self.prediction.metrics) if self.prediction else None

    @cached_property
    def success(self) -> SuccessRate | None:
        """Closed-loop success over all tasks."""
        return _overall(self.evaluation, "policy") if self.evaluation else None

    def sums(self, measure: str) -> Sums | None:
        """What stands behind a measure by episode, lower being better (success counts failures); None where unknown."""
        if measure == RATE:
            return _failures(self.evaluation)
        metrics = self.prediction.metrics if self.prediction else {}
        if measure == LOSS:
            episodes = section(metrics, "validation", "episodes")
            return sums_from_episodes(episodes, "loss") if episodes else None
        episodes = section(metrics, "episodes")
        return sums_from_episodes(episodes, "mae") if episodes else None

    @cached_property
    def weights(self) -> tuple[float, ...] | None:
        """One weight per merged checkpoint, where the merge has one for the whole policy."""
        return _weights(self.run.summary) if self.kind == MERGE else None


@dataclass(frozen=True, kw_only=True)
class Policies:
    """All measured policies, in the order singles, merges, references; and the single that merges are compared with."""

    members: tuple[EvaluatedPolicy, ...]
    best_single: EvaluatedPolicy | None

    def of(self, kind: str) -> list[EvaluatedPolicy]:
        """The policies of one kind."""
        return [member for member in self.members if member.kind == kind]

    def difference(
        self, member: EvaluatedPolicy, measure: str, rival: EvaluatedPolicy | None = None
    ) -> PairedDifference | None:
        """The policy's measure minus the rival's (default: the best single's) on the same episodes, with its interval.

        For success it is the difference of failure rates: below 0 the policy is better, as for the errors.
        """
        rival = rival or self.best_single
        if rival is None or rival is member:
            return None
        left, right = member.sums(measure), rival.sums(measure)
        if left is None or right is None or not np.array_equal(left.episodes, right.episodes):
            return None
        return paired_difference(left, right)

    def verdict(self, member: EvaluatedPolicy, measure: str, rival: EvaluatedPolicy | None = None) -> str:
        """`better`, `worse`, `not distinguishable`, or a dash where there is nothing to compare."""
        found = self.difference(member, measure, rival)
        if found is None or found["low"] is None or found["high"] is None:
            return "–"
        return "better" if found["high"] < 0 else "worse" if found["low"] > 0 else "not distinguishable"

    @property
    def baselines(self) -> Mapping[str, Estimate]:
        """MAE of the baselines on the same windows."""
        for member in self.members:
            found = section(member.prediction.metrics, "baselines") if member.prediction else {}
            if found:
                return {name: estimate for name, entry in found.items() if (estimate := MAE.of(entry))}
        return {}

    @property
    def idle(self) -> SuccessRate | None:
        """Success of doing nothing."""
        known = (_overall(member.evaluation, "noop") for member in self.members if member.evaluation)
        return next((score for score in known if score), None)


def policies_of(experiment: Experiment) -> Policies | None:
    """The policies of an experiment that merges; None for one that does not, or has measured nothing."""
    merges = [run for run in experiment.runs if run.task == "merge"]
    if not merges:
        return None
    inputs = {str(path) for run in merges for path in items(section(run.config, "merge").get("checkpoints"))}
    kinds = {run.name: MERGE for run in merges}
    kinds |= {run.name: SINGLE for run in experiment.runs if any(_is_at(run, path) for path in inputs)}
    found: dict[str, dict[str, Entry]] = {}
    for run in experiment.runs:
        key = {"predict": "prediction", "eval": "evaluation"}.get(run.task)
        target = _target(experiment, run) if key else None
        if key and target:
            found.setdefault(target.name, {})[key] = run
    by_name = {run.name: run for run in experiment.runs}
    members = [
        EvaluatedPolicy(
            run=by_name[name],
            kind=kinds.get(name, REFERENCE),
            prediction=by_kind.get("prediction"),
            evaluation=by_kind.get("evaluation"),
        )
        for name, by_kind in found.items()
    ]
    if not members:
        return None
    order = {SINGLE: 0, MERGE: 1, REFERENCE: 2}
    names = [run.name for run in experiment.runs]
    members.sort(key=lambda member: (order[member.kind], names.index(member.name)))
    return Policies(members=tuple(members), best_single=_best(members))


def _best(members: Sequence[EvaluatedPolicy]) -> EvaluatedPolicy | None:
    """The single with the lowest validation loss: chosen on other episodes than those it is compared on."""
    scored = [
        (loss, member)
        for member in members
        if member.kind == SINGLE and (loss := _validation_loss(member.run)) is not None
    ]
    return min(scored, key=lambda pair: pair[0])[1] if scored else None


def _validation_loss(run: Entry) -> float | None:
    values = [real(row.get("val_loss")) for row in run.validation]
    return next((value for value in reversed(values) if value is not None), None)


def _target(experiment: Experiment, run: Entry) -> Entry | None:
    """The run whose policy a prediction or evaluation is about."""
    path = str(section(run.config, run.task).get("checkpoint") or "")
    return next((other for other in experiment.runs if path and _is_at(other, path)), None)


def _is_at(run: Entry, path: str) -> bool:
    """Whether a path of a configuration means this run; the experiment's folder may have been moved since."""
    path = str(CheckpointRef.parse(path).path)
    return path == str(run.folder.resolve()) or path.endswith(f"/{run.name}")


def _loss(metrics: JSONObject) -> Estimate | None:
    entry = section(metrics, "validation")
    value = real(entry.get("loss"))
    return None if value is None else estimate_from(value, section(entry, "loss_interval"), {})


def _overall(run: Entry, policy: str) -> SuccessRate | None:
    return next((score for score in successes(run) if (score.policy, score.task) == (policy, "all tasks")), None)


def _failures(run: Entry | None) -> Sums | None:
    """Failed episodes by initial state and task: the same states stand behind every policy."""
    outcomes = items(section(run.metrics, "policies", "policy", "all").get("successes")) if run else ()
    if not outcomes:
        return None
    failed = 1.0 - np.asarray(outcomes, np.float64)
    # Tasks share their initial states' numbers, so an episode is named by its place.
    return Sums(episodes=np.arange(len(failed)), sums=failed, counts=np.ones(len(failed)), windows=len(failed))


def _weights(summary: JSON) -> tuple[float, ...] | None:
    weights = section(summary).get("weights")
    if isinstance(weights, Mapping) and len(weights) == 1:  # by unit: here the whole policy is one
        weights = next(iter(weights.values()))
    known = [float(value) for value in items(weights) if is_number(value)]
    return tuple(known) if known and len(known) == len(items(weights)) else None
