"""Policies as dots with intervals, one line each: error and success in two panels, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from xp.report.estimates import BASELINES
from xp.report.numbers import interval, number, percent
from xp.report.policies import MERGE, REFERENCE, SINGLE, Policies
from xp.report.svg import nice_ticks

WIDTH, ROW, TOP, BOTTOM, SIDE = 440, 36, 8, 46, 20
POLICY, BASELINE = "policy", "baseline"
STYLES = {SINGLE: "s0", MERGE: "s1", REFERENCE: "s2", POLICY: "s0", BASELINE: "base-mean"}
NAMES = {
    SINGLE: "trained on a part",
    MERGE: "merged",
    REFERENCE: "reference",
    POLICY: "policy",
    BASELINE: "baseline",
}
FAR = 3.0
"""A value further above the policies' median than so many times their middle spread is shown at the edge."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One line of a panel."""

    name: str
    kind: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Dots over one axis from `low` to `high`; what lies beyond, on either side, is drawn as an arrow at that edge."""

    key: str
    title: str
    label: str
    dots: tuple[Dot, ...]
    low: float
    high: float
    share: bool = False

    def text(self, value: float) -> str:
        """A value as the panel writes it."""
        return percent(value) if self.share else number(value)

    def side(self, value: float) -> int:
        """-1 for what lies left of the axis, 1 for what lies right of it, 0 for what lies on it."""
        return (value > self.high) - (value < self.low)


def panels(policies: Policies) -> list[Panel]:
    """The panels there are data for: MAE with the baselines, and success with doing nothing."""
    errors = [
        Dot(name=m.name, kind=m.kind, value=m.error.value, low=m.error.low, high=m.error.high)
        for m in policies.members
        if m.error
    ]
    rivals = [
        Dot(name=BASELINES[name], kind=BASELINE, value=e.value, low=e.low, high=e.high)
        for name, e in policies.baselines.items()
    ]
    rates = [
        Dot(name=m.name, kind=m.kind, value=m.success.rate, low=m.success.low, high=m.success.high)
        for m in policies.members
        if m.success
    ]
    found = []
    if errors:
        low, high = axis(errors)
        title, label = "Error on test episodes", "MAE (normalised units), 95% interval"
        found.append(Panel(key="policies_mae", title=title, label=label, dots=(*errors, *rivals), low=low, high=high))
    if rates:
        idle = policies.idle
        extra = (
            [Dot(name="doing nothing", kind=BASELINE, value=idle.rate, low=idle.low, high=idle.high)] if idle else []
        )
        title, label = "Closed-loop success", "share of episodes, 95% Wilson interval"
        dots = (*rates, *extra)
        found.append(Panel(key="policies_success", title=title, label=label, dots=dots, low=0.0, high=1.0, share=True))
    return found


def axis(dots: Sequence[Dot]) -> tuple[float, float]:
    """The range to show: all values but those far above the middle, which would squash the rest."""
    values = sorted(dot.value for dot in dots)
    middle, upper = values[len(values) // 2], values[(3 * len(values)) // 4]
    spread = max(upper - values[0], 0.05 * abs(middle), 1e-12)
    near = [dot for dot in dots if dot.value <= middle + FAR * spread]
    low = min(dot.low if dot.low is not None else dot.value for dot in near)
    high = max(dot.high if dot.high is not None else dot.value for dot in near)
    high = min(high, middle + 2 * FAR * spread)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def dot_plot(panel: Panel) -> str:
    """One `<svg>`: a name above each line, so that long names fit a phone."""
    height = TOP + ROW * len(panel.dots) + BOTTOM
    base = height - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(aria_label(panel))}" class="chart">']
    for tick in nice_ticks(panel.low, panel.high, 5):
        x = place(panel, tick)
        text = panel.text(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{base}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 18}" text-anchor="middle">{text}</text>')
    for row, dot in enumerate(panel.dots):
        parts += _row(panel, dot, TOP + ROW * row)
    parts.append(f'<line class="axis" x1="{SIDE}" x2="{WIDTH - SIDE}" y1="{base}" y2="{base}"/>')
    parts.append(
        f'<text class="label" x="{WIDTH / 2}" y="{height - 6}" text-anchor="middle">{escape(panel.label)}</text></svg>'
    )
    return "".join(parts)


def aria_label(panel: Panel) -> str:
    """The panel in words, for screen readers."""
    values = "; ".join(f"{dot.name}: {panel.text(dot.value)} {_format_interval(panel, dot)}" for dot in panel.dots)
    return f"{panel.title}. {panel.label}. {values}"


def place(panel: Panel, value: float) -> float:
    """Where a value lies, in SVG units; beyond the range at its edge."""
    share = (value - panel.low) / (panel.high - panel.low)
    return SIDE + min(1.0, max(0.0, share)) * (WIDTH - 2 * SIDE)


def legend(panel: Panel) -> list[tuple[str, str]]:
    """(css class, name) of the kinds that are there."""
    return [(STYLES[kind], NAMES[kind]) for kind in STYLES if any(dot.kind == kind for dot in panel.dots)]


def _row(panel: Panel, dot: Dot, top: float) -> list[str]:
    style, y = STYLES[dot.kind], top + 26
    title = f"<title>{escape(dot.name)}: {panel.text(dot.value)} {_format_interval(panel, dot)}</title>"
    side = panel.side(dot.value)
    value = {-1: "← {}", 0: "{}", 1: "{} →"}[side].format(panel.text(dot.value))
    parts = [f'<text class="name" x="{SIDE}" y="{top + 15}">{escape(dot.name)} · {value}</text>']
    if dot.low is not None and dot.high is not None:
        left, right = place(panel, dot.low), place(panel, dot.high)
        parts.append(f'<line class="line {style}" x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}"/>')
        ends = [panel.side(end) for end in (dot.low, dot.high) if panel.side(end) and not side]
        parts += [_chevron(style, place(panel, panel.high if end > 0 else panel.low), y, end) for end in ends]
    x = place(panel, dot.value)
    if side:
        points = f"{x - 8 * side:.1f},{y - 5} {x:.1f},{y} {x - 8 * side:.1f},{y + 5}"
        return [*parts, f'<polygon class="dot {style}" points="{points}">{title}</polygon>']
    return [*parts, f'<circle class="dot {style}" cx="{x:.1f}" cy="{y}" r="4.5">{title}</circle>']


def _chevron(style: str, x: float, y: float, side: int) -> str:
    """The end of an interval that goes on beyond the axis."""
    points = f"{x - 5 * side:.1f},{y - 4} {x:.1f},{y} {x - 5 * side:.1f},{y + 4}"
    return f'<polyline class="line {style}" points="{points}" fill="none"/>'


def _format_interval(panel: Panel, dot: Dot) -> str:
    if dot.low is None or dot.high is None or not panel.share:
        return interval(dot.low, dot.high)
    return f"[{percent(dot.low)}, {percent(dot.high)}]"
