"""Figures of one training, and of several beside each other: the names that published chunked fine-tuning gave them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xp.report.figures import PALETTE, blank_figure, save_figure
from xp.report.json_values import real
from xp.runs import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

type Log = Sequence[Mapping[str, object]]

PANELS = (
    (("direction_accuracy",), "direction accuracy", 0.5),
    (("gripper_accuracy",), "gripper accuracy", 0.8),
    (("l1_error",), "L1 error (dataset units)", None),
    (("position_l1", "rotation_l1"), "L1 error by part (dataset units)", None),
)
"""Of validation_metrics.png: columns of validation_log.csv, what they are, and the published target."""


def draw_training(run: RunFolder) -> list[Path]:
    """Write the figures of a run that has trained into its `figures/`; one without any row has none. Gives the paths.

    training_loss.png, learning_rate.png (logarithmic), validation_metrics.png (2 x 2) and loss_comparison.png; of a
    mixture of datasets also validation_by_dataset.png (2 x 2).
    """
    training, validation = run.training_log(), run.validation_log()
    folder, found = run.path / "figures", []
    if training:
        found.append(_lines(folder / "training_loss.png", {"training": (training, "loss")}, "training loss"))
        rates = {"learning rate": (training, "lr")}
        found.append(_lines(folder / "learning_rate.png", rates, "learning rate", is_log=True))
    if validation:
        found.append(_panels(folder / "validation_metrics.png", {"": validation}))
        losses = {"training": (training, "loss"), "held out": (validation, "val_loss")}
        found.append(_lines(folder / "loss_comparison.png", losses, "loss"))
        if by_dataset := logs_by_dataset(validation):
            found.append(_panels(folder / "validation_by_dataset.png", by_dataset))
    return found


def logs_by_dataset(log: Log) -> dict[str, Log]:
    """The validation of each dataset of a mixture, whose columns begin with its name and a slash; {} without one."""
    names = dict.fromkeys(column.partition("/")[0] for row in log for column in row if "/" in column)
    return {
        name: [
            {
                "step": row.get("step"),
                **{key.removeprefix(f"{name}/"): value for key, value in row.items() if key.startswith(f"{name}/")},
            }
            for row in log
        ]
        for name in names
    }


def draw_comparison(runs: Mapping[str, RunFolder], path: Path) -> Path:
    """Write the validation of several trainings, by their names, into one figure."""
    return _panels(path, {name: run.validation_log() for name, run in runs.items()})


def _lines(path: Path, series: Mapping[str, tuple[Log, str]], label: str, *, is_log: bool = False) -> Path:
    figure, (axes,) = blank_figure(6.4, 4.0)
    for number, (name, (log, column)) in enumerate(series.items()):
        _plot(axes, log, column, name, number)
    axes.set(xlabel="training step", ylabel=label)
    if is_log and any(value > 0 for line in axes.get_lines() for value in np.asarray(line.get_ydata())):
        axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False)
    return save_figure(figure, path)


def _panels(path: Path, logs: Mapping[str, Log]) -> Path:
    figure, axes = blank_figure(9.6, 6.4, rows=2, columns=2)
    for place, (columns, label, target) in zip(axes, PANELS):
        for run_number, (name, log) in enumerate(logs.items()):
            for number, column in enumerate(columns):
                words = (name, column if len(columns) > 1 else "")
                _plot(place, log, column, " ".join(filter(None, words)), run_number, ("-", "--")[number])
        if target is not None:
            place.axhline(target, color="#5f5f5f", linewidth=0.8, linestyle=(0, (4, 3)))
            place.set_ylim(-0.02, 1.02)
        place.set(xlabel="training step", ylabel=label)
        if place.get_legend_handles_labels()[1]:
            place.legend(fontsize=7, frameon=False)
    return save_figure(figure, path)


def _plot(axes: "Axes", log: Log, column: str, name: str, number: int, dash: str = "-") -> None:
    known = [(real(row.get("step")), real(row.get(column))) for row in log]  # pyright: ignore[reportArgumentType]
    points = [(x, y) for x, y in known if x is not None and y is not None and y == y]
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=PALETTE[number % len(PALETTE)],
        linestyle=dash,
        marker="o" if len(points) <= 30 else None,
        markersize=3.5,
        label=name or None,
    )
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
