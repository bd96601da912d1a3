"""Line charts as inline SVG whose colours come from the page's style sheet, so that they follow light and dark."""

import json
import math
from collections.abc import Callable, Sequence
from html import escape

from xp.report.charts import Chart, Series
from xp.report.numbers import number

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 12, 52
COLOURS = 6

Scale = Callable[[float], float]


def line_chart(chart: Chart) -> str:
    """One `<svg>` element with axes, intervals, lines and markers; the legend is `legend(chart)`."""
    xs = [value for line in chart.series for value in line.x]
    low, high = y_range(chart)
    x, y = _linear(min(xs), max(xs), LEFT, WIDTH - RIGHT), _y_scale(chart, low, high)
    clip = f"clip-{escape(chart.key)}"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_aria_label(chart))}" class="chart">',
        f'<defs><clipPath id="{clip}"><rect x="{LEFT - 4}" y="{TOP}" width="{WIDTH - LEFT - RIGHT + 8}" '
        f'height="{HEIGHT - TOP - BOTTOM + 1}"/></clipPath></defs>',
        *_y_axis(chart, low, high, y),
        *_x_axis(chart, min(xs), max(xs), x),
        f'<g clip-path="url(#{clip})">',
        *(_band(line, x, y) for line in chart.series if line.low and line.high),
        *(part for line in chart.series for part in _line(line, x, y, chart.markers)),
        "</g></svg>",
    ]
    return "".join(parts)


def legend(chart: Chart) -> list[tuple[str, str]]:
    """(css class, name) per line."""
    return [(css_class(line), line.name) for line in chart.series]


def css_class(line: Series) -> str:
    """The class that carries the line's colour and dash: `s0`..., beyond the sixth with another dash; `base-zero`..."""
    if isinstance(line.style, str):
        return f"base-{line.style}"
    return f"s{line.style % COLOURS} dash{line.style // COLOURS % 3}"


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high], at most `most`."""
    if high <= low:
        return [low]
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside [low, high]; powers alone over more than two decades."""
    factors = (1,) if math.log10(high / low) > 2 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def y_range(chart: Chart) -> tuple[float, float]:
    """The values to show: from zero where that costs little, with a margin, or the chart's own limits."""
    if chart.limits:
        return chart.limits
    values = [value for line in chart.series for value in (*line.y, *(line.low or ()), *(line.high or ()))]
    low, high = min(values), max(values)
    if chart.log:
        return low / 1.1, high * 1.1
    if low > 0 and low < 0.6 * high:
        low = 0.0
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (low if low == 0 else low - margin), high + margin


def _y_scale(chart: Chart, low: float, high: float) -> Scale:
    if not chart.log:
        return _linear(low, high, HEIGHT - BOTTOM, TOP)
    inner = _linear(math.log(low), math.log(high), HEIGHT - BOTTOM, TOP)
    return lambda value: inner(math.log(value))


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _y_axis(chart: Chart, low: float, high: float, y: Scale) -> list[str]:
    ticks = log_ticks(low, high) if chart.log else nice_ticks(low, high)
    ticks = ticks if len(ticks) >= 2 else [low, high]
    parts = []
    for tick in ticks:
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{at}" dy=".34em" text-anchor="end">{_tick(tick, ticks)}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    label = escape(chart.y_label)
    parts.append(
        f'<text class="label" transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{label}</text>'
    )
    return parts


def _x_axis(chart: Chart, low: float, high: float, x: Scale) -> list[str]:
    base = HEIGHT - BOTTOM
    ticks = nice_ticks(low, high, 8 if high < 100 else 6)
    if chart.key == "per_step_error":
        ticks = [tick for tick in ticks if tick == int(tick)] if high > 1 else [low]
        ticks = sorted({low, *ticks}) if high <= 10 else ticks
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    for tick in ticks:
        parts.append(f'<line class="axis" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{base}" y2="{base + 4}"/>')
        text = f"{tick:,.10g}"
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{base + 20}" text-anchor="middle">{text}</text>')
    centre = (LEFT + WIDTH - RIGHT) / 2
    return [
        *parts,
        f'<text class="label" x="{centre}" y="{HEIGHT - 7}" text-anchor="middle">{escape(chart.x_label)}</text>',
    ]


def _band(line: Series, x: Scale, y: Scale) -> str:
    assert line.low is not None and line.high is not None
    if len(line.x) == 1:
        at, top, bottom = x(line.x[0]), y(line.high[0]), y(line.low[0])
        return f'<line class="bar {css_class(line)}" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
    upper = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.high)]
    lower = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.low)]
    return f'<polygon class="band {css_class(line)}" points="{" ".join(upper + lower[::-1])}"/>'


def _line(line: Series, x: Scale, y: Scale, markers: bool) -> list[str]:
    """The line in one or two pieces (extended part dotted), its markers, and its numbers for the pointer."""
    places = [(x(a), y(b)) for a, b in zip(line.x, line.y)]
    solid = [place for place, a in zip(places, line.x) if a <= line.solid_until]
    dotted = places[max(len(solid) - 1, 0) :] if len(solid) < len(places) else []
    values = json.dumps(
        [[_short(a), _short(b), round(p[0], 1), round(p[1], 1)] for a, b, p in zip(line.x, line.y, places)]
    )
    data = f'data-name="{escape(line.name)}" data-values="{escape(values.replace(" ", ""))}"'
    parts = [f'<polyline class="line {css_class(line)}" {data} points="{_points(solid)}"/>']
    if len(dotted) > 1:
        parts.append(f'<polyline class="line extended {css_class(line)}" points="{_points(dotted)}"/>')
    if markers:
        for (cx, cy), a, b in zip(places, line.x, line.y):
            title = f"<title>{escape(line.name)}, {_short(a)}: {number(b)}</title>"
            parts.append(f'<circle class="dot {css_class(line)}" cx="{cx:.1f}" cy="{cy:.1f}" r="3">{title}</circle>')
    return parts


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in places)


def _short(value: float) -> float | int:
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e6 else rounded


def _tick(value: float, ticks: Sequence[float]) -> str:
    """A tick with as many decimals as its neighbours need."""
    step = min((abs(b - a) for a, b in zip(ticks, ticks[1:])), default=abs(value) or 1.0)
    decimals = min(6, max(0, -math.floor(math.log10(step) + 1e-9) + (1 if "25" in f"{step:.10g}" else 0)))
    if max(map(abs, ticks)) >= 1e6 or step < 1e-5:
        return f"{value:.1e}"
    return f"{value:,.{decimals}f}".replace("-", "−")


def _aria_label(chart: Chart) -> str:
    """The chart in words, for screen readers: each line's first and last value."""
    lines = [f"{line.name}: {number(line.y[0])} to {number(line.y[-1])}" for line in chart.series]
    return f"{chart.title}. {chart.y_label} by {chart.x_label}. " + "; ".join(lines)
