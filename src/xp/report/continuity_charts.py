"""The error of whole chunks at each of their steps, one line per arm: how far ahead a policy can be followed."""

import numpy as np

from xp.metrics.replay import MODES
from xp.report.charts import Chart, Series
from xp.report.continuity import Arm, Comparison, comparisons
from xp.report.read import Experiment


def continuity_charts(experiment: Experiment) -> list[Chart]:
    """One chart for each comparison whose replays know the errors of their steps."""
    return [chart for found in comparisons(experiment) if (chart := _chart(found)) is not None]


def _chart(found: Comparison) -> Chart | None:
    mode = found.main_mode
    series = [line for index, arm in enumerate(found.everyone) if (line := _line(arm, mode, index)) is not None]
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


def _line(arm: Arm, mode: str, index: int) -> Series | None:
    curve = _curve(arm, mode, "policy")
    return Series(name=arm.name, x=range(1, len(curve) + 1), y=curve, style=index) if curve else None


def _curve(arm: Arm, mode: str, row: str) -> list[float]:
    """The mean over seeds of one row's error curve; empty where a replay has none."""
    curves = [
        ((replay.metrics["replay"].get(mode) or {}).get(row) or {}).get("per_step", {}).get("l1", {}).get("value")
        for _, replay in arm.replays
    ]
    if not curves or any(not curve or None in curve for curve in curves):
        return []
    return np.mean(curves, axis=0).tolist()
