"""The trained-horizon x predicted-horizon matrix of a metric, with the baselines of each predicted horizon.

Models of one horizon that differ in anything but their seed are rows of their own: their mean would be of no model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xp.report.estimates import BASELINES, METRICS, Estimate, Metric
from xp.report.json_values import section
from xp.report.read import Entry, Experiment
from xp.report.results import flat_value, telling_keys


@dataclass(frozen=True, order=True)
class Trained:
    """The models of a row: the horizon they were trained at, and what else tells them from the other rows' models."""

    horizon: int
    variant: str = ""

    @property
    def label(self) -> str:
        """`h4`, or `h4 (parallel, l1)`."""
        return f"h{self.horizon} ({self.variant})" if self.variant else f"h{self.horizon}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (trained, predicted) pair: its runs and their estimate, or why there is none."""

    trained: Trained
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
        return self.trained.horizon == self.predicted


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Cells by (trained, predicted), and the baselines by (name, predicted) where they are known."""

    metric: Metric
    trained: tuple[Trained, ...]
    predicted: tuple[int, ...]
    cells: Mapping[tuple[Trained, int], Cell]
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
    groups, keys = dict[tuple[Trained, int], list[Entry]](), _telling_keys(experiment)
    for run in experiment.predictions:
        assert run.horizons is not None
        trained, predicted = run.horizons
        groups.setdefault((Trained(trained, _variant(run, keys)), predicted), []).append(run)
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


def _telling_keys(experiment: Experiment) -> list[str]:
    """Keys, but of seeds, in which predictions of one (trained, predicted) pair differ."""
    pairs: dict[tuple[int, int] | None, list[Entry]] = {}
    for run in experiment.predictions:
        pairs.setdefault(run.horizons, []).append(run)
    told = (telling_keys([run for run in runs if run.config]) for runs in pairs.values())
    return list(dict.fromkeys(key for keys in told for key in keys))


def _variant(run: Entry, keys: Iterable[str]) -> str:
    """The values of some keys: words as they are, numbers with the end of their key; places and lists are left out."""
    found = {key.rpartition(".")[2]: flat_value(run, key) for key in keys}
    return ", ".join(
        value if value.replace("_", "a").isalnum() and value[0].isalpha() else f"{key}={value}"
        for key, value in found.items()
        if not set(value) & set("/[{")
    )


def has_matrix(experiment: Experiment) -> bool:
    """True where two horizons meet, a model is asked for another than its own: a heat map says more than a table."""
    return any(pair and pair[0] != pair[1] for pair in (run.horizons for run in experiment.predictions))


def build_matrices(experiment: Experiment) -> list[Matrix]:
    """The matrices of all metrics that at least one run has, where there is a matrix at all."""
    if not has_matrix(experiment):
        return []
    return [matrix for metric in METRICS if (matrix := build_matrix(experiment, metric))]


def _cell(trained: Trained, predicted: int, runs: list[Entry], metric: Metric) -> Cell:
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
