"""PNG figures for papers and slides: the heat maps and charts of the report, drawn by matplotlib without a display."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.atomic import write_bytes
from xp.report.charts import Chart, Series
from xp.report.estimates import BASELINES, Estimate
from xp.report.matrix import Cell, Matrix
from xp.report.numbers import interval, number
from xp.report.policy_plot import Panel
from xp.report.svg import COLOURS, y_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0b6bb0", "#c8501e", "#12805c", "#8e4a9e", "#a06a00", "#b3365f")
"""One colour per model, at least 3:1 against white and apart from each other for colour-blind readers."""
GREYS = {"zero": "#8a8a8a", "mean": "#5f5f5f", "hold_last": "#2b2b2b"}
DASHES = {"zero": (0, (1, 2)), "mean": (0, (6, 2)), "hold_last": (0, (6, 2, 1, 2))}
MODEL_DASHES = ("-", "--", "-.")


def draw_figures(folder: Path, matrices: list[Matrix], charts: list[Chart]) -> list[Path]:
    """Write heatmap_<metric>.png for each matrix and <key>.png for each chart into `folder`; returns their paths."""
    paths = []
    for matrix in matrices:
        paths.append(save_figure(_heatmap(matrix), folder / f"heatmap_{matrix.metric.key}.png"))
    for chart in charts:
        paths.append(save_figure(_chart(chart), folder / f"{chart.key.replace('/', '_')}.png"))
    return paths


def draw_panels(folder: Path, panels: Sequence[Panel]) -> list[Path]:
    """Write <key>.png for each panel of policies; returns their paths."""
    return [save_figure(_panel(panel), folder / f"{panel.key}.png") for panel in panels]


def _panel(panel: Panel) -> "Figure":
    figure, axes = _figure(6.4, 1.2 + 0.32 * len(panel.dots))
    colours = {"single": PALETTE[0], "merge": PALETTE[1], "reference": PALETTE[2], "policy": PALETTE[0]}
    colours["baseline"] = GREYS["mean"]
    for row, dot in enumerate(panel.dots):
        colour = colours[dot.kind]
        if dot.low is not None and dot.high is not None:
            axes.plot([dot.low, dot.high], [row, row], color=colour, linewidth=1.6)
        side = panel.side(dot.value)
        if side:
            edge, marker, align = (panel.high, ">", "right") if side > 0 else (panel.low, "<", "left")
            axes.plot([edge], [row], marker=marker, color=colour, markersize=7, clip_on=False)
            axes.text(edge, row - 0.2, f" {panel.text(dot.value)} ", ha=align, va="bottom", fontsize=7)
            continue
        axes.plot([dot.value], [row], marker="o", color=colour, markersize=5)
        for end in (dot.low, dot.high):
            if end is not None and panel.side(end):
                edge, marker = (panel.high, ">") if panel.side(end) > 0 else (panel.low, "<")
                axes.plot([edge], [row], marker=marker, color=colour, markersize=3, clip_on=False)
    axes.set_yticks(range(len(panel.dots)), [dot.name for dot in panel.dots], fontsize=8)
    axes.set(xlim=(panel.low, panel.high), ylim=(len(panel.dots) - 0.5, -0.7), xlabel=panel.label, title=panel.title)
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    figure, axes = blank_figure(width, height)
    return figure, axes[0]


def blank_figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure (inches) and its axes, row by row, that never touch pyplot: no display, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write whole or not at all; without a date or version inside, so that the same numbers give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    return path


def _heatmap(matrix: Matrix) -> "Figure":
    names = matrix.baseline_names()
    rows, columns = len(matrix.trained) + len(names), len(matrix.predicted)
    figure, axes = _figure(2.2 + 1.75 * columns, 1.6 + 0.72 * rows)
    for row, trained in enumerate(matrix.trained):
        for column, predicted in enumerate(matrix.predicted):
            _draw_cell(axes, row, column, matrix, matrix.cells[trained, predicted])
    for offset, name in enumerate(names):
        for column, predicted in enumerate(matrix.predicted):
            estimate = matrix.baselines.get((name, predicted))
            _draw_box(axes, len(matrix.trained) + offset, column, matrix, estimate, "–")
    if names:
        axes.axhline(len(matrix.trained) - 0.5, color="black", linewidth=1.5)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), xlabel="predicted horizon")
    axes.set_xticks(range(columns), [str(value) for value in matrix.predicted])
    heads = [f"trained on {each.label}" for each in matrix.trained] + [BASELINES[name] for name in names]
    axes.set_yticks(range(rows), heads)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{matrix.metric.label}\n({matrix.metric.unit}; lower is better)", fontsize=10)
    return figure


def _draw_cell(axes: "Axes", row: int, column: int, matrix: Matrix, cell: Cell) -> None:
    _draw_box(axes, row, column, matrix, cell.estimate, cell.standing)
    if cell.own:
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle((column - 0.46, row - 0.45), 0.92, 0.9, fill=False, edgecolor="black", linewidth=1.2))


def _draw_box(axes: "Axes", row: int, column: int, matrix: Matrix, estimate: Estimate | None, instead: str) -> None:
    from matplotlib.patches import Rectangle

    colour = _shade(matrix.shade(estimate)) if estimate else "#ffffff"
    hatch = None if estimate else "////"
    box = Rectangle(
        (column - 0.49, row - 0.48), 0.98, 0.96, facecolor=colour, edgecolor="#d0d0d0", hatch=hatch, linewidth=0.5
    )
    axes.add_patch(box)
    if estimate is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.text(column, row, instead, ha="center", va="center", fontsize=9, color="#444444", bbox=box)
        return
    axes.text(column, row - 0.14, number(estimate.value), ha="center", va="center", fontsize=11, fontweight="bold")
    count = f"n={estimate.episodes}" if estimate.episodes else ""
    text = f"{interval(estimate.low, estimate.high)}  {count}"
    axes.text(column, row + 0.24, text.strip(), ha="center", va="center", fontsize=7)


def _shade(share: float) -> tuple[float, float, float]:
    """From near white to a middle blue on which black text still has a contrast of 7:1."""
    low, high = (0.97, 0.98, 1.0), (0.47, 0.68, 0.90)
    return tuple(a + share * (b - a) for a, b in zip(low, high))  # type: ignore[return-value]


def _chart(chart: Chart) -> "Figure":
    figure, axes = _figure(6.4, 4.0)
    for line in chart.series:
        _draw_line(axes, line, chart.markers)
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label, title=chart.title)
    if chart.log:
        axes.set_yscale("log")
    axes.set_ylim(*y_range(chart))
    if chart.key == "per_step_error":
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    columns = 1 if len(chart.series) <= 12 else 2
    figure.legend(loc="outside right upper", fontsize=8, frameon=False, ncols=columns)
    return figure


def _draw_line(axes: "Axes", line: Series, markers: bool) -> None:
    if isinstance(line.style, str):
        colour, dash = GREYS[line.style], DASHES[line.style]
    else:
        colour = PALETTE[line.style % COLOURS]
        dash = MODEL_DASHES[line.style // COLOURS % len(MODEL_DASHES)]
    x, y = list(line.x), list(line.y)
    solid = sum(1 for value in x if value <= line.solid_until)
    marker = "o" if markers else None
    axes.plot(x[:solid], y[:solid], color=colour, linestyle=dash, marker=marker, markersize=3.5, label=line.name)
    if solid < len(x):
        start = max(solid - 1, 0)
        axes.plot(x[start:], y[start:], color=colour, linestyle=":", marker=marker, markersize=3.5)
    if line.low is not None and line.high is not None:
        if len(x) == 1:
            axes.vlines(x, line.low, line.high, color=colour, alpha=0.5)
        axes.fill_between(x, list(line.low), list(line.high), color=colour, alpha=0.15, linewidth=0)
