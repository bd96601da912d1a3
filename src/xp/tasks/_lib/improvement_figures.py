"""The figures of `task=loop`: returns and lengths, loop by loop."""

from collections.abc import Mapping
from pathlib import Path

from xp.report.charts import Chart, Series
from xp.report.figures import draw_figures
from xp.tasks._lib.attempting import ReturnMetrics


def draw(folder: Path, evaluations: Mapping[str, ReturnMetrics]) -> None:
    """returns.png and lengths.png: by loop, with intervals, beside control and expert."""
    names = sorted(name for name in evaluations if name.startswith("loop_"))
    x = list(range(len(names)))

    def line(name: str, entries: list[ReturnMetrics], style: int) -> Series:
        ends = [entry["return_interval"] for entry in entries]
        return Series(
            name=name,
            x=x,
            y=[entry["mean_return"] for entry in entries],
            low=[float(end["low"] or 0.0) for end in ends],  # pyright: ignore[reportArgumentType] - numbers
            high=[float(end["high"] or 0.0) for end in ends],  # pyright: ignore[reportArgumentType] - numbers
            style=style,
        )

    lines = [line("policy", [evaluations[name] for name in names], 0)]
    lines.append(line("control (no update)", [evaluations["loop_00"]] * len(names), 1))
    if "expert" in evaluations:
        lines.append(line("expert", [evaluations["expert"]] * len(names), 2))
    lengths = Series(name="policy", x=x, y=[evaluations[name]["mean_length"] for name in names], style=0)
    charts = [
        Chart(
            key="returns", title="Return by loop", note="Mean over initial states, 95% intervals.",
            x_label="loop", y_label="return", series=lines, markers=True,
        ),
        Chart(
            key="lengths", title="Length by loop", note="Mean over initial states.",
            x_label="loop", y_label="steps", series=[lengths], markers=True,
        ),
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    draw_figures(folder, [], charts)
