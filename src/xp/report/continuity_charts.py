"""The error of whole chunks at each of their steps, one line per variant: how far ahead a policy can be trusted."""

import numpy as np

from xp.metrics.replay import MODES
from xp.report.charts import Chart, Series
from xp.report.comparisons import Comparison, Variant, comparisons
from xp.report.json_values import reals, section
from xp.report.read import Experiment


def continuity_charts(experiment: Experiment) -> list[Chart]:
    """One chart for each comparison whose replays know the errors of their steps."""
    return [chart for found in comparisons(experiment) if (chart := _chart(found)) is not None]


def _chart(found: Comparison) -> Chart | None:
    mode = found.main_mode
    series = [line for index, variant in enumerate(found.everyone) if (line := _line(variant, mode, index)) is not None]
    if not series:
        return None
    held = _curve(found.everyone[0], mode, "hold_last")
    if held:
        series.append(Series(name="hold-last", x=range(1, len(held) + 1), y=held, style="hold_last"))
    return Chart(
        key="chunk_error_" + found.title.lower().replace(" ", "_"),
        title=f"Error inside a chunk: {found.title.lower()}",
        note=f"Mean |predicted - demonstrated| at each step of all chunks, executed or not, held-out episodes; "
        f"{MODES.get(mode, mode)}.",
        x_label="step of the chunk",
        y_label="error (std of training)",
        series=series,
        markers=True,
    )


def _line(variant: Variant, mode: str, index: int) -> Series | None:
    curve = _curve(variant, mode, "policy")
    return Series(name=variant.name, x=range(1, len(curve) + 1), y=curve, style=index) if curve else None


def _curve(variant: Variant, mode: str, row: str) -> list[float]:
    """The mean over seeds of one row's error curve; empty where a replay has none."""
    curves = [
        reals(section(replay.metrics, "replay", mode, row, "per_step", "l1").get("value"))
        for _, replay in variant.replays
    ]
    known = [[value for value in curve if value is not None] for curve in curves]
    if not curves or any(not curve or len(curve) < len(whole) for curve, whole in zip(known, curves)):
        return []
    return np.mean(known, axis=0).tolist()
