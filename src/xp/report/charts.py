"""What the charts show: series of numbers from the runs, independent of how they are drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from xp.json_types import JSON, JSONObject
from xp.report.bounded import MOST_LINES, best_and_worst
from xp.report.estimates import BASELINES
from xp.report.json_values import real, reals, section
from xp.report.read import Entry, Experiment
from xp.report.results import label_of

MOST_POINTS = 160


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line. `style` is a colour number for models or a baseline's name; beyond `solid_until` it is extended."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: int | str = 0
    solid_until: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Series over one x axis, with the words around them. `key` names its PNG file."""

    key: str
    title: str
    note: str
    x_label: str
    y_label: str
    series: Sequence[Series] = field(default_factory=tuple)
    log: bool = False
    limits: tuple[float, float] | None = None
    """The y range to show where some values lie outside it (a loss's first steps)."""
    markers: bool = False


def all_charts(experiment: Experiment) -> list[Chart]:
    """Every chart the experiment has data for."""
    return [*step_charts(experiment), *calibration_charts(experiment), *curve_charts(experiment)]


def step_charts(experiment: Experiment) -> list[Chart]:
    """Error at each step of the longest predicted horizon: one line per trained horizon, and the baselines."""
    runs = [run for run in experiment.predictions if run.metrics.get("per_step")]
    if not runs:
        return []
    longest = max(run.horizons[1] for run in runs if run.horizons)
    shown = best_and_worst([run for run in runs if run.horizons and run.horizons[1] == longest], MOST_LINES)
    shown.sort(key=_trained)
    trained = sorted({_trained(run) for run in runs})
    series = [
        replace(
            _step_series(_model_name(run, shown), run.metrics, trained.index(_trained(run))), solid_until=_trained(run)
        )
        for run in shown
    ]
    for name, label in BASELINES.items():
        entry = next((found for run in shown if (found := section(run.metrics, "baselines", name))), None)
        if entry:
            series.append(replace(_step_series(label, entry, name), low=None, high=None))
    note = (
        f"Mean absolute error at each of {longest} future steps, held-out episodes, padding left out. Bands are 95% "
        "intervals. A dotted part lies beyond the trained horizon, where predictions are extended."
    )
    return [
        Chart(
            key="per_step_error",
            title="Error by step",
            note=note,
            x_label="future step",
            y_label="MAE (normalised units)",
            series=series,
            markers=True,
        )
    ]


def calibration_charts(experiment: Experiment) -> list[Chart]:
    """Observed against nominal coverage at the models' own horizons, with the diagonal of a calibrated density."""
    own = [run for run in experiment.predictions if run.horizons and run.horizons[0] == run.horizons[1]]
    own = sorted(best_and_worst([run for run in own if run.metrics.get("calibration")], MOST_LINES), key=_trained)
    if not own:
        return []
    trained = sorted({_trained(run) for run in experiment.predictions})
    series = [
        Series(
            name=_model_name(run, own),
            x=_percents(run, "nominal"),
            y=_percents(run, "observed"),
            style=trained.index(_trained(run)),
        )
        for run in own
    ]
    series.append(Series(name="calibrated", x=[0, 100], y=[0, 100], style="zero"))
    note = (
        "Share of held-out steps inside the predicted region of each nominal size, at the models' own horizons. Below "
        "the diagonal the model is too sure of itself, above it too careful."
    )
    return [
        Chart(
            key="calibration",
            title="Calibration",
            note=note,
            x_label="nominal region (%)",
            y_label="steps inside (%)",
            series=series,
            limits=(0, 100),
        )
    ]


def _percents(run: Entry, key: str) -> list[float]:
    shares = reals(section(run.metrics, "calibration", "curve").get(key))
    return [100 * share for share in shares if share is not None]


def curve_charts(experiment: Experiment) -> list[Chart]:
    """Training loss, validation loss and validation L1 error by step: one chart per stage, one line per run."""
    kinds = (
        ("training_curves", "training", "loss", "Training loss"),
        ("validation_curves", "validation", "val_loss", "Validation loss"),
        ("validation_l1", "validation", "l1_error", "Validation L1 error"),
    )
    stages = experiment.stages(experiment.trainings)
    result = []
    for key, log, column, title in kinds:
        for stage, runs in stages.items():
            logged = [run for run in runs if getattr(run, log)]
            shown = best_and_worst(logged, MOST_LINES)
            series = [
                made
                for index, run in enumerate(shown)
                if (made := _log_series(getattr(run, log), column, label_of(run, runs), index))
            ]
            if series:
                several = sum(1 for other in stages.values() if any(getattr(run, log) for run in other)) > 1
                result.append(
                    _curve_chart(
                        key, f"{title}: {stage}" if several else title, stage if several else "", series, len(logged)
                    )
                )
    return result


def _curve_chart(key: str, title: str, stage: str, series: list[Series], runs: int) -> Chart:
    values = [value for line in series for value in line.y]
    log = min(values) > 0 and max(values) / min(values) > 30
    limits = None if log else _without_first_spike(series)
    note = "One line per run. "
    if runs > MOST_LINES:
        note += f"Of {runs} runs the {len(series)} shown are the best and the worst. "
    if key == "training_curves":
        note += f"Averaged to at most {MOST_POINTS} points. "
    if limits:
        note += "The first steps leave the range shown."
    return Chart(
        key=f"{key}_{stage}" if stage else key,
        title=title,
        note=note.strip(),
        x_label="training step",
        y_label=title.split(":")[0].replace("T", "t", 1).replace("V", "v", 1),
        series=series,
        log=log,
        limits=limits,
        markers=key != "training_curves" and len(values) <= 60,
    )


def _log_series(rows: Sequence[JSONObject], column: str, name: str, index: int) -> Series | None:
    known = [(real(row.get("step")), real(row.get(column))) for row in rows]
    points = [(x, y) for x, y in known if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)]
    if not points:
        return None
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    x = [sum(point[0] for point in group) / len(group) for group in groups]
    y = [sum(point[1] for point in group) / len(group) for group in groups]
    return Series(name=name, x=x, y=y, style=index)


def _without_first_spike(series: list[Series]) -> tuple[float, float] | None:
    """A y range without the first tenth of each line, where that is less than half of the whole range."""
    everything = [value for line in series for value in line.y]
    later = [value for line in series for value in line.y[len(line.y) // 10 :]]
    low, high = min(everything), max(later)
    if high - low >= 0.5 * (max(everything) - low) or high <= low:
        return None
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def _step_series(name: str, entry: JSONObject, style: int | str) -> Series:
    """The mean absolute error at each step of one entry of metrics.json, without steps that no window reaches."""
    curve = section(entry, "per_step", "normalised", "mae")
    values = reals(curve.get("value"))
    kept = [index for index, value in enumerate(values) if value is not None]

    def pick(column: JSON) -> list[float] | None:
        numbers = [number for index, number in enumerate(reals(column)) if index in kept and number is not None]
        return numbers if len(numbers) == len(kept) else None

    return Series(
        name=name,
        x=[index + 1 for index in kept],
        y=pick(curve.get("value")) or [],
        low=pick(curve.get("low")),
        high=pick(curve.get("high")),
        style=style,
    )


def _model_name(run: Entry, shown: list[Entry]) -> str:
    """`trained on h4`; with the run's name where several runs (seeds) share the horizon."""
    same = [other for other in shown if _trained(other) == _trained(run)]
    return f"trained on h{_trained(run)}" + (f" ({run.name})" if len(same) > 1 else "")


def _trained(run: Entry) -> int:
    assert run.horizons is not None
    return run.horizons[0]
