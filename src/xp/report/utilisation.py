"""Who was busy when: hosts by time, one bar per job, from the runs' records alone, whatever launched them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from xp.report.read import Entry, Experiment
from xp.report.svg import COLOURS, nice_ticks
from xp.runs.execution.progress import clock_text

WIDTH, LEFT, RIGHT, TOP, LANE, GAP, BOTTOM = 900, 150, 16, 6, 16, 8, 40
LONGEST = 18
"""Letters of a host's name that fit beside its lanes."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The last attempt of one job."""

    name: str
    stage: str
    host: str
    start: float
    """Seconds since the first job of the experiment started."""
    end: float
    standing: str


def bars(experiment: Experiment) -> list[Bar]:
    """A bar per run that has begun, by start. One that has not ended reaches to the last time that is known."""
    begun = [(run, _time(run, "started")) for run in experiment.runs]
    known = [(run, start, _time(run, "ended")) for run, start in begun if start is not None and run.record.get("host")]
    if not known:
        return []
    zero = min(start for _, start, _ in known)
    last = max(max(start, end or start) for _, start, end in known)
    found = [
        Bar(name=run.name, stage=run.stage, host=str(run.record["host"]), start=start - zero,
            end=max(start, last if end is None else end) - zero, standing=run.standing)
        for run, start, end in known
    ]  # fmt: skip
    return sorted(found, key=lambda bar: (bar.start, bar.name))


def lanes(of_host: Sequence[Bar]) -> list[list[Bar]]:
    """The bars of one host on as few lanes as keep them apart: its workers or GPUs. Bars must be sorted by start."""
    found: list[list[Bar]] = []
    for bar in of_host:
        free = next((lane for lane in found if lane[-1].end <= bar.start), None)
        if free is None:
            found.append([bar])
        else:
            free.append(bar)
    return found


def busy_share(of_host: Sequence[Bar], span: float) -> float:
    """The share of a host's lanes and of the experiment's `span` of seconds in which a job was at work."""
    number = len(lanes(of_host))
    return sum(bar.end - bar.start for bar in of_host) / (number * span) if span > 0 and number else 0.0


def utilisation(experiment: Experiment) -> dict[str, Any] | None:
    """What the page shows: the picture, its legend and the numbers behind it; None if nothing has run yet."""
    found = bars(experiment)
    span = max((bar.end for bar in found), default=0.0)
    if span <= 0:
        return None
    hosts: dict[str, list[Bar]] = defaultdict(list)
    for bar in sorted(found, key=lambda bar: bar.host):
        hosts[bar.host].append(bar)
    hosts = {host: sorted(mine, key=lambda bar: (bar.start, bar.name)) for host, mine in hosts.items()}
    stages = list(dict.fromkeys(bar.stage for bar in found))
    return {
        "svg": _picture(hosts, stages, span),
        "legend": [(f"s{index % COLOURS}", stage) for index, stage in enumerate(stages)],
        "rows": [
            (host, len(mine), clock_text(sum(bar.end - bar.start for bar in mine)), f"{busy_share(mine, span):.0%}")
            for host, mine in hosts.items()
        ],
    }


def _picture(hosts: dict[str, list[Bar]], stages: list[str], span: float) -> str:
    rows = {host: lanes(mine) for host, mine in hosts.items()}
    height = TOP + sum(len(mine) * LANE + GAP for mine in rows.values()) + BOTTOM
    scale = (WIDTH - LEFT - RIGHT) / span
    parts, y = [], float(TOP)
    for host, mine in rows.items():
        shown = host if len(host) <= LONGEST else f"{host[: LONGEST - 1]}…"
        middle = y + len(mine) * LANE / 2
        parts.append(f'<text x="{LEFT - 8}" y="{middle:.1f}" dy=".34em" text-anchor="end">{escape(shown)}</text>')
        for lane in mine:
            parts += [_bar(bar, LEFT + bar.start * scale, y, scale, stages.index(bar.stage)) for bar in lane]
            y += LANE
        y += GAP
    shares = "; ".join(f"{host}: {len(mine)} jobs, {busy_share(mine, span):.0%} busy" for host, mine in hosts.items())
    spoken = escape(f"Hosts by time. {shares}")
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" class="timeline" aria-label="{spoken}">'
    return "".join([head, *_axis(span, scale, y), *parts, "</svg>"])


def _bar(bar: Bar, x: float, y: float, scale: float, stage: int) -> str:
    words = f"{bar.name}: {clock_text(bar.start)} to {clock_text(bar.end)} on {bar.host}, {bar.standing}"
    broken = "" if bar.standing in ("done", "running") else " broken"
    width = max(1.5, (bar.end - bar.start) * scale - 1)
    return (
        f'<rect class="job s{stage % COLOURS}{broken}" x="{x:.1f}" y="{y + 1:.1f}" width="{width:.1f}" '
        f'height="{LANE - 2}" rx="2"><title>{escape(words)}</title></rect>'
    )


def _axis(span: float, scale: float, base: float) -> list[str]:
    unit, name = next((each for each in ((86400, "days"), (3600, "hours"), (60, "minutes")) if span >= 2 * each[0]),
                      (1, "seconds"))  # fmt: skip
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base:.1f}" y2="{base:.1f}"/>']
    for tick in nice_ticks(0.0, span / unit, 9):
        x = f"{LEFT + tick * unit * scale:.1f}"
        parts.append(f'<line class="grid-line" x1="{x}" x2="{x}" y1="{TOP}" y2="{base:.1f}"/>')
        parts.append(f'<text x="{x}" y="{base + 16:.1f}" text-anchor="middle">{tick:,.10g}</text>')
    centre = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{centre}" y="{base + 32:.1f}" text-anchor="middle">{name} since the first job</text>')
    return parts


def _time(run: Entry, key: str) -> float | None:
    try:
        return datetime.fromisoformat(str(run.record.get(key))).timestamp()
    except ValueError:
        return None
