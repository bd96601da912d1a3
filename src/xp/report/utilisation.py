"""The utilisation of hosts over time: one bar per job, from the runs' records alone, whatever launched them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from xp.report.read import Entry, Experiment
from xp.report.svg import COLOURS, nice_ticks
from xp.runs.execution.progress import clock_text

WIDTH, LEFT, RIGHT, TOP, LANE, GAP, BOTTOM = 900, 150, 16, 6, 16, 8, 40
LONGEST = 18
"""Letters of a host's name that fit beside its lanes."""


@dataclass(frozen=True, kw_only=True)
class JobSpan:
    """The last attempt of one job."""

    name: str
    stage: str
    host: str
    start: float
    """Seconds since the first job of the experiment started."""
    end: float
    standing: str


def job_spans(experiment: Experiment) -> list[JobSpan]:
    """A bar per run that has begun, by start. One that has not ended reaches to the last time that is known."""
    begun = [(run, _time(run, "started")) for run in experiment.runs]
    known = [(run, start, _time(run, "ended")) for run, start in begun if start is not None and run.record.get("host")]
    if not known:
        return []
    zero = min(start for _, start, _ in known)
    last = max(max(start, end or start) for _, start, end in known)
    found = [
        JobSpan(name=run.name, stage=run.stage, host=str(run.record["host"]), start=start - zero,
            end=max(start, last if end is None else end) - zero, standing=run.standing)
        for run, start, end in known
    ]  # fmt: skip
    return sorted(found, key=lambda bar: (bar.start, bar.name))


def lanes(of_host: Sequence[JobSpan]) -> list[list[JobSpan]]:
    """The bars of one host on as few lanes as keep them apart: its workers or GPUs. Bars must be sorted by start."""
    found: list[list[JobSpan]] = []
    for bar in of_host:
        free = next((lane for lane in found if lane[-1].end <= bar.start), None)
        if free is None:
            found.append([bar])
        else:
            free.append(bar)
    return found


def busy_share(of_host: Sequence[JobSpan], span: float) -> float:
    """The share of a host's lanes and of the experiment's `span` of seconds in which a job was at work."""
    number = len(lanes(of_host))
    return sum(bar.end - bar.start for bar in of_host) / (number * span) if span > 0 and number else 0.0


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """What the page shows: the picture as SVG, its legend (css class, stage) and a row of numbers for each host."""

    svg: str
    legend: list[tuple[str, str]]
    rows: list[tuple[str, int, str, str]]
    """Host, jobs, time at work, share of the time at work."""


def utilisation(experiment: Experiment) -> Utilisation | None:
    """Who was busy when; None if nothing has run yet."""
    found = job_spans(experiment)
    span = max((bar.end for bar in found), default=0.0)
    if span <= 0:
        return None
    hosts: dict[str, list[JobSpan]] = defaultdict(list)
    for bar in sorted(found, key=lambda bar: bar.host):
        hosts[bar.host].append(bar)
    hosts = {host: sorted(mine, key=lambda bar: (bar.start, bar.name)) for host, mine in hosts.items()}
    stages = list(dict.fromkeys(bar.stage for bar in found))
    return Utilisation(
        svg=_picture(hosts, stages, span),
        legend=[(f"s{index % COLOURS}", stage) for index, stage in enumerate(stages)],
        rows=[
            (host, len(mine), clock_text(sum(bar.end - bar.start for bar in mine)), f"{busy_share(mine, span):.0%}")
            for host, mine in hosts.items()
        ],
    )


def _picture(hosts: dict[str, list[JobSpan]], stages: list[str], span: float) -> str:
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
    label = escape(f"Hosts by time. {shares}")
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" class="timeline" aria-label="{label}">'
    return "".join([head, *_axis(span, scale, y), *parts, "</svg>"])


def _bar(bar: JobSpan, x: float, y: float, scale: float, stage: int) -> str:
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
