"""The trained-horizon x predicted-horizon matrix of a metric, with the baselines of each predicted horizon."""

from collections.abc import Mapping
from dataclasses import dataclass

from xp.report.estimates import BASELINES, METRICS, Estimate, Metric
from xp.report.json_values import section
from xp.report.read import Entry, Experiment


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (trained, predicted) pair: its runs and their estimate, or why there is none."""

    trained: int
    predicted: int
    runs: tuple[Entry, ...]
    estimate: Estimate | None

    @property
    def standing(self) -> str:
        """done, missing, or the state of the run that has no result."""
        if self.estimate is not None:
            return "done"
        standings = {run.standing for run in self.runs} - {"done"}
        return sorted(standings)[0] if standings else "missing"

    @property
    def own(self) -> bool:
        """True where the model is asked for the horizon it was trained on."""
        return self.trained == self.predicted


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Cells by (trained, predicted), and the baselines by (name, predicted) where they are known."""

    metric: Metric
    trained: tuple[int, ...]
    predicted: tuple[int, ...]
    cells: Mapping[tuple[int, int], Cell]
    baselines: Mapping[tuple[str, int], Estimate]

    def shade(self, estimate: Estimate) -> float:
        """Position of a value in the colour range, 0 (best model) to 1 (worst model, mean action or hold-last).

        The zero action has no part in the range: where actions are positions it is far worse than anything else, and
        all other cells would look the same.
        """
        values = [cell.estimate.value for cell in self.cells.values() if cell.estimate]
        others = [rival.value for (name, _), rival in self.baselines.items() if name != "zero"]
        low, high = min(values, default=0.0), max(values + others, default=1.0)
        return min(1.0, max(0.0, (estimate.value - low) / (high - low))) if high > low else 0.0

    def baseline_names(self) -> list[str]:
        """The baselines that at least one predicted horizon has, in the usual order."""
        return [name for name in BASELINES if any(known == name for known, _ in self.baselines)]


def build_matrix(experiment: Experiment, metric: Metric) -> Matrix | None:
    """The matrix of one metric; None where no run has it. Pairs without a run are cells marked missing."""
    groups: dict[tuple[int, int], list[Entry]] = {}
    for run in experiment.predictions:
        assert run.horizons is not None
        groups.setdefault(run.horizons, []).append(run)
    if not any(metric.of(run.metrics) for run in experiment.predictions):
        return None
    trained = tuple(sorted({pair[0] for pair in groups}))
    predicted = tuple(sorted({pair[1] for pair in groups}))
    cells = {(t, p): _cell(t, p, groups.get((t, p), []), metric) for t in trained for p in predicted}
    rivals = {
        (name, p): estimate
        for name in BASELINES
        for p in predicted
        if (estimate := _baseline(name, [run for t in trained for run in groups.get((t, p), [])], metric))
    }
    return Matrix(metric=metric, trained=trained, predicted=predicted, cells=cells, baselines=rivals)


def has_matrix(experiment: Experiment) -> bool:
    """True where two horizons meet: a heat map says more than a table."""
    pairs = {run.horizons for run in experiment.predictions}
    return len({pair[0] for pair in pairs if pair}) > 1 or len({pair[1] for pair in pairs if pair}) > 1


def build_matrices(experiment: Experiment) -> list[Matrix]:
    """The matrices of all metrics that at least one run has, where there is a matrix at all."""
    if not has_matrix(experiment):
        return []
    return [matrix for metric in METRICS if (matrix := build_matrix(experiment, metric))]


def _cell(trained: int, predicted: int, runs: list[Entry], metric: Metric) -> Cell:
    found = [estimate for run in runs if (estimate := metric.of(run.metrics))]
    return Cell(trained=trained, predicted=predicted, runs=tuple(runs), estimate=_joined(found))


def _baseline(name: str, runs: list[Entry], metric: Metric) -> Estimate | None:
    """The baseline at one predicted horizon: the same held-out windows stand behind every run of the column."""
    for run in runs:
        if estimate := metric.of(section(run.metrics, "baselines", name)):
            return estimate
    return None


def _joined(estimates: list[Estimate]) -> Estimate | None:
    """One estimate as it is; several (seeds) as their mean with their smallest and largest value."""
    if len(estimates) <= 1:
        return estimates[0] if estimates else None
    values = [estimate.value for estimate in estimates]
    return Estimate(
        value=sum(values) / len(values),
        low=min(values),
        high=max(values),
        episodes=estimates[0].episodes,
        windows=estimates[0].windows,
        runs=len(values),
    )
