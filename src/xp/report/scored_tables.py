"""Policies of closed-loop evaluations as tables, as a panel of dots and as sentences."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table as Terminal

from xp.report.findings import Finding
from xp.report.numbers import percent
from xp.report.policy_plot import BASELINE, POLICY, Dot, Panel
from xp.report.read import Experiment
from xp.report.scored import CONTROLS, PolicySet, Rate, ScoredPolicy, SuccessDifference, policy_sets, scored_policies
from xp.report.tables import Table

MOST_POLICIES = 40
"""Rows and lines of a page."""
_SHOWN = 16
"""Rows in a terminal."""
_SENTENCES = 8


def scored_table(experiment: Experiment) -> Table | None:
    """A row for each policy: successes, rate, interval, each seed's rate, the controls; None for fewer than two."""
    scored = scored_policies(experiment)
    if len(scored) < 2:
        return None
    known = [name for name in CONTROLS if any(name in policy.controls for policy in scored)]
    heads = ("policy", "tasks", "success", "each training seed", *(CONTROLS[name] for name in known))
    rows = [_row(policy, known) for policy in scored[:MOST_POLICIES]]
    left_out = f" {MOST_POLICIES} of {len(scored)} are shown." if len(scored) > MOST_POLICIES else ""
    note = (
        "Successes of all episodes, tasks and training seeds together, with Wilson 95% intervals, which know nothing "
        f"of differences between trainings: each seed's rate stands beside them.{left_out}"
    )
    return Table(title="Success of each policy", heads=heads, rows=tuple(rows), note=note)


def difference_tables(experiment: Experiment) -> list[Table]:
    """For each set of policies that are compared: the paired differences of their success rates."""
    return [_differences(found) for found in policy_sets(experiment)]


def success_panel(experiment: Experiment) -> Panel | None:
    """A dot with its interval for each policy, and below them the largest of each control; None for fewer than two."""
    scored = scored_policies(experiment)[:MOST_POLICIES]
    if len(scored) < 2:
        return None
    dots = [_dot(policy.name, POLICY, rate) for policy in scored if (rate := policy.rate())]
    for name, title in CONTROLS.items():
        rates = [rate for policy in scored if (rate := policy.rate(name))]
        if rates:
            dots.append(_dot(f"{title} (best of {len(rates)})", BASELINE, max(rates, key=lambda rate: rate.value)))
    return Panel(
        key="success_policies",
        title="Closed-loop success",
        label="share of episodes, 95% Wilson interval",
        dots=tuple(dots),
        low=0.0,
        high=1.0,
        share=True,
    )


def success_findings(experiment: Experiment) -> Iterator[Finding]:
    """Which differences between policies can be told from chance."""
    for found in policy_sets(experiment)[:_SENTENCES]:
        clear = [each for each in found.differences if each.found.is_clear]
        total = len(found.differences)
        if not clear:
            size = found.differences[0].found.episodes
            yield Finding(
                f"Success, {found.title}: no difference between the policies can be told from chance "
                f"({total} compared, {size} episodes each)."
            )
            continue
        largest = max(clear, key=lambda each: abs(each.found.value))
        yield Finding(
            f"Success, {found.title}: {len(clear)} of {total} differences are clear; the largest is "
            f"{largest.first.name} minus {largest.second.name}, {_value(largest)} over {largest.found.episodes} "
            "episodes.",
            "good",
        )


def success_terminal(experiment: Experiment) -> Terminal | None:
    """Their successes, for a terminal; None for fewer than two."""
    scored = scored_policies(experiment)
    if len(scored) < 2:
        return None
    known = [name for name in CONTROLS if any(name in policy.controls for policy in scored)]
    more = f" {_SHOWN} of {len(scored)} policies." if len(scored) > _SHOWN else ""
    table = Terminal(title=f"{experiment.name}: closed-loop success", caption=f"Wilson 95% intervals.{more}")
    for head in ("policy", "success", *(CONTROLS[name] for name in known)):
        table.add_column(head, justify="left" if head == "policy" else "right", overflow="fold")
    for policy in scored[:_SHOWN]:
        rates = [policy.rate(), *(policy.rate(name) for name in known)]
        table.add_row(escape(policy.name), *(escape(_text(rate)) for rate in rates))
    return table


def _row(policy: ScoredPolicy, controls: list[str]) -> tuple[str, ...]:
    tasks = ", ".join(policy.tasks) if len(policy.tasks) <= 2 else f"{len(policy.tasks)} tasks"
    seeds = " ".join(percent(rate) for rate in policy.by_seed())
    return (policy.name, tasks, _text(policy.rate()), seeds, *(_text(policy.rate(name)) for name in controls))


def _text(rate: Rate | None) -> str:
    """`190/200 = 95% [91%, 97%]`; a dash for nothing."""
    if rate is None:
        return "–"
    low, high = rate.interval
    return f"{rate.successes}/{rate.episodes} = {percent(rate.value)} [{percent(low)}, {percent(high)}]"


def _differences(found: PolicySet) -> Table:
    rows = tuple(
        (
            f"{each.first.name} − {each.second.name}",
            _value(each),
            f"{each.found.episodes} × {each.found.seeds}",
            each.found.verdict,
        )
        for each in found.differences
    )
    level = found.differences[0].found.level
    note = (
        "In percentage points of success, paired by training seed, task and initial state (n: episodes × seeds); "
        f"intervals at {100 * level:.3g}% each, so that all of them hold together with 95% (Bonferroni)."
    )
    heads = ("policies", "difference", "n", "verdict")
    return Table(title=f"Differences in success: {found.title}", heads=heads, rows=rows, note=note)


def _value(each: SuccessDifference) -> str:
    """`+12 [3, 21]`, in percentage points."""
    found = each.found
    ends = (
        "no interval" if found.low is None or found.high is None else f"[{_points(found.low)}, {_points(found.high)}]"
    )
    return f"{_points(found.value)} {ends}"


def _points(share: float) -> str:
    points = round(100 * share)
    return f"+{points}" if points > 0 else f"−{-points}" if points < 0 else "0"


def _dot(name: str, kind: str, rate: Rate) -> Dot:
    low, high = rate.interval
    return Dot(name=name, kind=kind, value=rate.value, low=low, high=high)
