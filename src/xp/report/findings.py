"""The report's headline sentences, each computed from the runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xp.json_types import JSONObject
from xp.metrics.intervals import PairedDifference, paired_difference
from xp.metrics.scores import sums_from_episodes
from xp.report.estimates import BASELINES, MAE, format_estimate
from xp.report.json_values import real, section
from xp.report.matrix import Cell, Matrix, build_matrix, has_matrix
from xp.report.numbers import enumeration, interval, number, percent
from xp.report.policies import policies_of
from xp.report.read import Entry, Experiment
from xp.report.results import best_run, label_of
from xp.report.scored import CONTROLS, Rate, scored_policies

_NAMED = 8
"""Runs that a sentence names, and sentences of one kind."""
Tone = Literal["good", "bad", "neutral"]


@dataclass(frozen=True)
class Finding:
    """One sentence and how to mark it."""

    text: str
    tone: Tone = "neutral"


def findings(experiment: Experiment) -> list[Finding]:
    """All findings: baselines first, then the best horizon, calibration, success, sweeps, and what is missing."""
    found: list[Finding] = []
    errors = build_matrix(experiment, MAE)
    matrix = errors if has_matrix(experiment) else None
    if errors and (matrix or 1 < len(errors.trained) <= _NAMED):
        found += [finding for name in errors.baseline_names() for finding in _against(errors, name)]
    if matrix:
        found += _best_horizon(matrix)
        found += _calibration(matrix)
    if policies_of(experiment) is None:  # else each policy's success stands in one sentence with the others
        found += _success(experiment)
    if not matrix:
        found += _best_of_sweep(experiment)
    return [*found, *_incomplete(experiment, matrix)]


def _against(matrix: Matrix, baseline: str) -> Iterator[Finding]:
    """Which models beat one baseline at their own horizon: both MSE and MAE intervals apart from the baseline's."""
    own = [cell for cell in matrix.cells.values() if cell.own and cell.estimate]
    verdicts = {cell.trained: verdict(cell, baseline) for cell in own}
    where = f"the {BASELINES[baseline]}" if baseline != "hold_last" else BASELINES[baseline]
    winners = [cell for cell in own if verdicts[cell.trained] == "beats"]
    if winners:
        verb = "beats" if len(winners) == 1 else "beat"
        names = enumeration([f"{cell.trained.label}" for cell in winners])
        horizon = "its own horizon" if len(winners) == 1 else "their own horizons"
        numbers = "; ".join(_versus(matrix, cell, baseline) for cell in winners)
        yield Finding(f"{names} {verb} {where} at {horizon}: MAE {numbers}.", "good")
    for cell in own:
        versus = _versus(matrix, cell, baseline)
        if verdicts[cell.trained] == "overlaps":
            text = f"{cell.trained.label} is not shown to beat {where} at its own horizon: MAE {versus}."
            yield Finding(text + " The intervals of MSE or MAE overlap.", "bad")
        elif verdicts[cell.trained] == "loses":
            yield Finding(f"{cell.trained.label} is worse than {where} at its own horizon: MAE {versus}.", "bad")


def verdict(cell: Cell, baseline: str) -> str:
    """`beats`, `loses`, `overlaps` or `unknown` (no interval), by the intervals of both MSE and MAE.

    Where several runs (seeds) share the cell, it beats or loses only if every one of them does.
    """
    verdicts = {_verdict_of(run, baseline) for run in cell.runs if run.metrics}
    if "unknown" in verdicts or not verdicts:
        return "unknown"
    return verdicts.pop() if len(verdicts) == 1 else "overlaps"


def _verdict_of(run: Entry, baseline: str) -> str:
    own = [_interval_of(run.metrics, key) for key in ("mse", "mae")]
    rival = [_interval_of(section(run.metrics, "baselines", baseline), key) for key in ("mse", "mae")]
    pairs = [(mine, theirs) for mine, theirs in zip(own, rival) if mine and theirs]
    if len(pairs) < len(own):
        return "unknown"
    if all(mine[1] < theirs[0] for mine, theirs in pairs):
        return "beats"
    return "loses" if all(mine[0] > theirs[1] for mine, theirs in pairs) else "overlaps"


def _interval_of(entry: JSONObject, key: str) -> tuple[float, float] | None:
    """Both ends of a metric's interval; None without one."""
    ends = section(entry, f"{key}_interval")
    low, high = real(ends.get("low")), real(ends.get("high"))
    return None if low is None or high is None else (low, high)


def _versus(matrix: Matrix, cell: Cell, baseline: str) -> str:
    rival = matrix.baselines[(baseline, cell.predicted)]
    assert cell.estimate is not None
    return f"{format_estimate(cell.estimate)} vs {format_estimate(rival)} at {_steps(cell.predicted)}"


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _best_horizon(matrix: Matrix) -> Iterator[Finding]:
    """Which trained horizon is best at the longest predicted one, and whether the runner-up is really worse."""
    longest = matrix.predicted[-1]
    column = [cell for cell in matrix.cells.values() if cell.predicted == longest and cell.estimate]
    ranked = sorted(column, key=lambda cell: cell.estimate.value if cell.estimate else 0.0)
    if len(ranked) < 2:
        return
    best, second = ranked[0], ranked[1]
    assert best.estimate and second.estimate
    text = (
        f"Asked for {_steps(longest)}, the model trained on {best.trained.label} has the lowest error: MAE "
        f"{format_estimate(best.estimate)}; next {second.trained.label} with {format_estimate(second.estimate)}"
    )
    difference = _paired(best, second)
    if difference is None or difference["low"] is None or difference["high"] is None:
        yield Finding(f"{text}.")
        return
    sure = difference["high"] < 0
    ends = interval(difference["low"], difference["high"])
    closing = "the difference is clear" if sure else "the difference may be chance"
    yield Finding(
        f"{text} (paired difference {number(difference['value'])} {ends} over {difference['n_episodes']} episodes: "
        f"{closing})."
    )


def _paired(first: Cell, second: Cell) -> PairedDifference | None:
    """Paired difference of two cells' MAE over the same held-out episodes; None where the episodes differ."""
    if len(first.runs) != 1 or len(second.runs) != 1:
        return None
    entries = [section(cell.runs[0].metrics, "episodes") for cell in (first, second)]
    if not all(entries):
        return None
    left, right = (sums_from_episodes(entry, "mae") for entry in entries)
    if not np.array_equal(left.episodes, right.episodes):
        return None
    return paired_difference(left, right)


def _calibration(matrix: Matrix) -> Iterator[Finding]:
    """How much of the held-out steps the nominal 90% regions hold, at each model's own horizon."""
    shares = {}
    for cell in matrix.cells.values():
        metrics = next((run.metrics for run in cell.runs if run.metrics), {})
        share = real(section(metrics, "calibration", "coverage").get("0.9"))
        if cell.own and share is not None:
            shares[cell.trained] = share
    if shares:
        listed = enumeration([f"{percent(share)} ({trained.label})" for trained, share in shares.items()])
        tone = "neutral" if all(0.85 <= share <= 0.95 for share in shares.values()) else "bad"
        yield Finding(f"Predicted 90% regions hold {listed} of the held-out steps at the models' own horizons.", tone)


def _success(experiment: Experiment) -> Iterator[Finding]:
    """Closed-loop success of each evaluated policy over all tasks and seeds, beside its controls."""
    scored = scored_policies(experiment)
    if len(scored) > _NAMED:
        above = sum(policy.is_above_controls for policy in scored)
        yield Finding(
            f"{len(scored)} policies were evaluated in closed loop, {above} of them with a success rate above that of "
            "all their controls; the table has their rates."
        )
        return
    for policy in scored:
        rate = policy.rate()
        if rate is None:
            continue
        text = f"{policy.name} succeeds in {rate.successes} of {rate.episodes} episodes: {_rate(rate)}"
        beside = "".join(f"; {CONTROLS[name]}: {_rate(control)}" for name, control in policy.controls.items())
        tone: Tone = "neutral" if not beside else "good" if policy.is_above_controls else "bad"
        yield Finding(f"{text}{beside}.", tone)


def _rate(rate: Rate) -> str:
    low, high = rate.interval
    return f"{percent(rate.value)} [{percent(low)}, {percent(high)}]"


def _best_of_sweep(experiment: Experiment) -> Iterator[Finding]:
    """The run with the lowest validation loss in each stage of several trainings."""
    for stage, runs in experiment.stages(experiment.trainings).items():
        best = best_run(runs)
        if best and len(runs) > 1:
            run, value, key = best
            yield Finding(
                f"{label_of(run, runs)} has the lowest {key} of the {len(runs)} runs in {stage}: {number(value)} "
                "(one run each, so without an interval)."
            )


def _incomplete(experiment: Experiment, matrix: Matrix | None) -> Iterator[Finding]:
    """What is not there: failed runs, missing cells, runs still to come."""
    if experiment.broken:
        listed = "; ".join(f"{run.name} ({run.standing}{_because(run)})" for run in experiment.broken[:_NAMED])
        listed += f"; and {len(experiment.broken) - _NAMED} more" if len(experiment.broken) > _NAMED else ""
        yield Finding(f"{len(experiment.broken)} of {len(experiment.runs)} runs have no result: {listed}.", "bad")
    if matrix:
        missing = [f"train {c.trained.label}, predict h{c.predicted}" for c in matrix.cells.values() if not c.runs]
        if missing:
            yield Finding(f"{len(missing)} of {len(matrix.cells)} cells have no run: {_first(missing)}.", "bad")
    waiting = [run.name for run in experiment.runs if run.standing in ("pending", "running", "interrupted")]
    if waiting:
        shown = enumeration(waiting) if len(waiting) <= 4 else f"{', '.join(waiting[:3])} and {len(waiting) - 3} more"
        yield Finding(f"{len(waiting)} of {len(experiment.runs)} runs are not finished: {shown}.", "bad")


def _first(words: list[str]) -> str:
    return "; ".join(words[:_NAMED]) + (f"; and {len(words) - _NAMED} more" if len(words) > _NAMED else "")


def _because(run: Entry) -> str:
    text = run.problem if len(run.problem) <= 160 else run.problem[:157] + "..."
    return f": {text.rstrip('.')}" if text else ""
