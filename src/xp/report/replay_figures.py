"""A replayed episode as pictures: each joint's trajectory, and its acceleration, with the chunk boundaries marked."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xp.metrics.continuity import acceleration
from xp.metrics.replay import Trace
from xp.report.figures import GREYS, PALETTE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Callable[[np.ndarray], np.ndarray]
"""From a trajectory [F, A] to what is drawn of it."""

MOST_LABELLED = 40
"""Beyond so many boundaries (ensembling has one a frame) the lines would hide the curves."""


def draw_replay(
    folder: Path, name: str, traces: Mapping[str, Trace], *, joints: Sequence[str], fps: float, title: str
) -> list[Path]:
    """Write NAME_trajectories.png and NAME_accelerations.png; returns their paths.

    Args:
        folder: where to.
        name: beginning of the file names, such as `ep3_self_chained`.
        traces: by row: `policy`, `hold_last`; the demonstration is in each of them.
        joints: names of the action dimensions.
        fps: frames per second, for the time axis.
        title: above the picture.
    """
    kinds = {"trajectories": (0, _positions, ""), "accelerations": (2, acceleration, "acceleration, ")}
    paths = []
    for kind, (offset, values, words) in kinds.items():
        figure = _picture(traces, joints, fps, offset, values, f"{title}: {words}dataset units")
        paths.append(save_figure(figure, folder / f"{name}_{kind}.png"))
    return paths


def _positions(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, dtype=np.float64)


def _picture(
    traces: Mapping[str, Trace], joints: Sequence[str], fps: float, offset: int, values: Values, title: str
) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    policy = traces["policy"]
    figure = Figure(figsize=(9.0, 1.2 + 1.25 * len(joints)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(joints), 1, sharex=True, squeeze=False)[:, 0]
    time = (policy.first + offset + np.arange(len(policy.x) - offset)) / fps
    boundaries = (policy.first + policy.boundaries) / fps
    shown = values(policy.x), values(policy.truth)
    for index, axes in enumerate(rows):
        if len(boundaries) <= MOST_LABELLED:
            for at in boundaries:
                axes.axvline(at, color="#b0b0b0", linewidth=0.8)
        _row(axes, time, shown[0][:, index], shown[1][:, index], traces.get("hold_last"), index, offset, fps, values)
        axes.set_ylabel(joints[index], fontsize=8, rotation=0, ha="right", va="center")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    rows[-1].set_xlabel("time (s)" if len(boundaries) > MOST_LABELLED else "time (s); vertical lines: a new chunk")
    handles, labels = rows[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def _row(
    axes: "Axes",
    time: np.ndarray,
    own: np.ndarray,
    truth: np.ndarray,
    held: Trace | None,
    index: int,
    offset: int,
    fps: float,
    values: Values,
) -> None:
    axes.plot(time, truth, color=GREYS["hold_last"], linewidth=1.2, label="demonstration")
    axes.plot(time, own, color=PALETTE[1], linewidth=1.2, label="policy")
    if held is not None and offset == 0:
        at = (held.first + np.arange(len(held.x))) / fps
        axes.plot(at, values(held.x)[:, index], color=GREYS["zero"], linewidth=0.8, linestyle=":", label="hold-last")
