"""Experiments of hundreds or thousands of runs: which of them tables, charts and sentences show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from xp.report.estimates import MAE
from xp.report.numbers import number
from xp.report.read import Entry, Experiment
from xp.report.results import best_of, successes, telling_keys, varied
from xp.report.tables import Table

MOST_RUNS = 60
"""Rows of a table of runs; more are shown as a table of variants, and a few runs of each end."""
MOST_VARIANTS = 40
MOST_LINES = 12
"""Lines of a chart."""
_VARIED = 6
"""Keys that tell variants apart."""


@dataclass(frozen=True)
class Score:
    """What a run is judged by."""

    label: str
    value: float
    higher_is_better: bool = False

    @property
    def rank(self) -> float:
        """Smaller is better."""
        return -self.value if self.higher_is_better else self.value


def score_of(run: Entry) -> Score | None:
    """A prediction's error, an evaluation's success rate, a training's best validation; None where there is none."""
    if (estimate := MAE.of(run.metrics)) is not None:
        return Score("MAE", estimate.value)
    for score in successes(run):
        return Score("success", score.rate, higher_is_better=True)
    best = best_of(run)
    return None if best is None else Score(best[2], best[0])


def best_and_worst(runs: Sequence[Entry], most: int) -> list[Entry]:
    """At most so many runs, in their order: failures, then the best and (a third of the rest) the worst."""
    if len(runs) <= most:
        return list(runs)
    broken = [run for run in runs if run.standing in ("failed", "damaged", "cancelled")][: most // 4]
    scored = sorted(((m.rank, i) for i, run in enumerate(runs) if (m := score_of(run))), key=lambda pair: pair)
    left = most - len(broken)
    indices = [index for _, index in scored]
    chosen = {*indices[: left - left // 3], *indices[len(indices) - left // 3 :]} if len(indices) > left else {*indices}
    others = [i for i, run in enumerate(runs) if i not in chosen and run not in broken]
    chosen |= set(others[: left - len(chosen)])
    return [run for i, run in enumerate(runs) if i in chosen or any(run is each for each in broken)]


def shortened(experiment: Experiment, most: int = MOST_RUNS) -> Experiment:
    """The experiment with the best and the worst of each stage, at most `most` runs (but one a stage)."""
    if len(experiment.runs) <= most:
        return experiment
    stages = experiment.stages()
    share = max(1, most // len(stages))
    return replace(experiment, runs=tuple(run for runs in stages.values() for run in best_and_worst(runs, share)))


def variants_table(experiment: Experiment, most: int = MOST_VARIANTS) -> Table | None:
    """The runs of each large stage by what they vary beside the seed; the best and the worst variants where many.

    None where no stage has more runs than a table shows.
    """
    rows: list[tuple[str, ...]] = []
    for stage, runs in experiment.stages().items():
        if len(experiment.runs) > MOST_RUNS and len(runs) > 1:
            rows += _variants(stage, runs, most)
    if not rows:
        return None
    note = "Mean of the runs of a variant that have a result, and their range. " + (
        f"Of more than {most} variants of a stage the best and the worst are shown."
    )
    heads = ("stage", "variant", "runs", "done", "measure", "mean", "range")
    return Table(title="Variants", heads=heads, rows=tuple(rows), note=note, numeric=frozenset({2, 3, 5}))


def _variants(stage: str, runs: Sequence[Entry], most: int) -> list[tuple[str, ...]]:
    known = [run for run in runs if run.config]
    keys = telling_keys(known)[:_VARIED]
    groups: dict[str, list[Entry]] = {}
    for run in runs:
        groups.setdefault(varied(run, keys) or "(all alike)", []).append(run)
    rows: list[tuple[float, tuple[str, ...]]] = []
    for name, members in groups.items():
        measures = [measure for run in members if (measure := score_of(run))]
        alike = [measure for measure in measures if measure.label == measures[0].label]
        values = [measure.value for measure in alike]
        summary = ("–", "–", "–")
        if alike:
            summary = (alike[0].label, number(mean(values)), f"[{number(min(values))}, {number(max(values))}]")
        done = sum(run.standing == "done" for run in members)
        rank = mean(measure.rank for measure in alike) if alike else float("inf")
        rows.append((rank, (stage, name, str(len(members)), str(done), *summary)))
    rows.sort(key=lambda pair: pair[0])
    shown = [row for _, row in rows]
    if len(shown) <= most:
        return shown
    worst = most // 4
    gap = (stage, f"... {len(shown) - most} variants between ...", *[""] * 5)
    return [*shown[: most - worst], gap, *shown[len(shown) - worst :]]
