"""What loops of improvement (`task=loop`) gained: by rule over seeds, in pairs, and loop by loop.

A rule is runs that differ in the seed alone. The gain of a seed is the return of the policy that its run ends with,
minus that of the policy before any loop, from initial states by which nothing was chosen; what does not learn (the
control) gains 0 by this. Intervals are Student's over seeds. Two rules are compared seed by seed: the same seed has the
same first policy and the same initial states.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from xp.json_types import JSON
from xp.metrics.intervals import mean_interval
from xp.report.charts import Chart, Series
from xp.report.findings import Finding
from xp.report.json_values import count, real, section
from xp.report.numbers import interval, number, percent
from xp.report.read import Entry, Experiment
from xp.report.results import differing_keys
from xp.report.tables import Table

_LOOP = "loop_"


@dataclass(frozen=True, eq=False)
class Improved:
    """What one run says: returns of its first and of its last policy from held-out states, and those loop by loop."""

    initial: float
    final: float
    expert: float | None
    loops: tuple[float, ...]

    @property
    def gain(self) -> float:
        """Of the last policy over the first."""
        return self.final - self.initial


@dataclass(frozen=True, eq=False)
class Rule:
    """The runs of one rule on one robot, by their seed."""

    name: str
    robot: str
    runs: Mapping[int, Improved]

    @property
    def gains(self) -> list[float]:
        """Of each seed, in their order."""
        return [self.runs[seed].gain for seed in sorted(self.runs)]

    @property
    def way(self) -> float | None:
        """The share of the way from the first policies to the expert that was gone; None without a better expert."""
        known = [(run.gain, run.expert - run.initial) for run in self.runs.values() if run.expert is not None]
        total = sum(whole for _, whole in known)
        return sum(gain for gain, _ in known) / total if len(known) == len(self.runs) and total > 0 else None


def improvement_rules(experiment: Experiment) -> list[Rule]:
    """All rules with a finished run, in the order of their runs."""
    alike: dict[tuple[str, str], list[tuple[Entry, Improved]]] = {}
    for run in experiment.runs:
        improved = _improved(run.summary) if run.task == "loop" and run.standing == "done" else None
        if improved is not None:
            summary = section(run.summary)
            key = str(summary.get("loop")), str(summary.get("robot"))
            alike.setdefault(key, []).append((run, improved))
    return [rule for (name, robot), runs in alike.items() for rule in _told_apart(name, robot, runs)]


def _told_apart(name: str, robot: str, runs: Sequence[tuple[Entry, Improved]]) -> list[Rule]:
    """Runs of one name and robot as rules: those that were changed in something else carry it in their name."""
    keys = [key for key in differing_keys([run for run, _ in runs]) if key.startswith(("loop.", "env."))]
    found: dict[str, dict[int, Improved]] = {}
    for run, improved in runs:
        own = ", ".join([name, *(f"{key}={run.flat.get(key)}" for key in keys)])
        found.setdefault(own, {})[count(run.config.get("seed")) or 0] = improved
    return [Rule(own, robot, members) for own, members in found.items()]


def improvement_tables(experiment: Experiment) -> list[Table]:
    """What each rule gained, and the differences between rules; empty without loops."""
    rules = improvement_rules(experiment)
    if not rules:
        return []
    heads = ("rule", "robot", "seeds", "before", "after", "gain", "of the way to the expert", "expert")
    gained = Table(
        title="Gain of each rule",
        heads=heads,
        rows=tuple(_row(rule) for rule in rules),
        note=(
            "Returns from initial states by which no policy was chosen; means over seeds with Student's 95% intervals. "
            "The control is the policy before any loop: its gain is 0."
        ),
    )
    differences = _differences(rules)
    return [gained, differences] if differences else [gained]


def improvement_findings(experiment: Experiment) -> Iterator[Finding]:
    """Which rules gained, and whether one gained more than another."""
    for rule in improvement_rules(experiment):
        low, high = mean_interval(rule.gains)
        gain = f"{_signed(rule.gains)} over the policy before any loop ({len(rule.gains)} seeds)"
        said = f"{rule.name} on {rule.robot}: {gain}"
        way = "" if rule.way is None else f", {percent(rule.way)} of the way to the expert"
        if low is None or high is None or low <= 0 <= high:
            yield Finding(f"{said}: not to be told from no update{way}.")
        else:
            yield Finding(f"{said}{way}.", "good" if low > 0 else "bad")


def improvement_charts(experiment: Experiment) -> list[Chart]:
    """Return by loop, a line for each rule; of each task."""
    rules = improvement_rules(experiment)
    charts = []
    for place in dict.fromkeys(rule.robot for rule in rules):
        mine = [rule for rule in rules if rule.robot == place]
        series = [_line(rule, style) for style, rule in enumerate(mine)]
        steps = max((len(each.x) for each in series), default=0)
        experts = [run.expert for rule in mine for run in rule.runs.values() if run.expert is not None]
        if experts:
            level = float(np.mean(experts))
            series.append(Series(name="expert", x=list(range(steps)), y=[level] * steps, style="hold_last"))
        charts.append(
            Chart(
                key=f"improvement_{_safe(place)}",
                title=f"Return by loop: {place}",
                note="Means over seeds, each from its own initial states; bands are Student's 95% intervals.",
                x_label="loop",
                y_label="return",
                series=series,
                markers=True,
            )
        )
    return charts


def _improved(summary: JSON) -> Improved | None:
    held_out, returns = section(summary, "held_out"), section(summary, "returns")
    ends = real(held_out.get("held_out_initial")), real(held_out.get("held_out_final"))
    loops = [real(returns[name]) for name in sorted(returns) if name.startswith(_LOOP)]
    if ends[0] is None or ends[1] is None:
        return None
    known = tuple(each for each in loops if each is not None)
    return Improved(ends[0], ends[1], real(section(summary).get("expert_return")), known)


def _row(rule: Rule) -> tuple[str, ...]:
    runs = [rule.runs[seed] for seed in sorted(rule.runs)]
    experts = [run.expert for run in runs if run.expert is not None]
    return (
        rule.name,
        rule.robot,
        str(len(runs)),
        _mean([run.initial for run in runs]),
        _mean([run.final for run in runs]),
        _signed(rule.gains),
        "–" if rule.way is None else percent(rule.way),
        number(float(np.mean(experts))) if experts else "–",
    )


def _differences(rules: Sequence[Rule]) -> Table | None:
    pairs = [(one, other) for one, other in combinations(rules, 2) if one.robot == other.robot]
    found: list[tuple[str, ...]] = []
    for one, other in pairs:
        seeds = sorted(one.runs.keys() & other.runs.keys())
        if not seeds:
            continue
        values, level = [one.runs[seed].final - other.runs[seed].final for seed in seeds], 1 - 0.05 / len(pairs)
        low, high = mean_interval(values, level)
        verdict = "no verdict" if low is None or high is None else _verdict(low, high)
        row = (
            f"{one.name} − {other.name}",
            one.robot,
            _signed(values, level),
            str(len(seeds)),
            verdict,
        )
        found.append(row)
    if not found:
        return None
    note = "The policies that two rules end with, in pairs by seed; the intervals hold together with 95% (Bonferroni)."
    heads = ("rules", "robot", "difference of returns", "seeds", "verdict")
    return Table(title="Differences between rules", heads=heads, rows=tuple(found), note=note)


def _verdict(low: float, high: float) -> str:
    if low <= 0 <= high:
        return "not distinguishable"
    return "higher" if low > 0 else "lower"


def _mean(values: Sequence[float]) -> str:
    low, high = mean_interval(values)
    return f"{number(float(np.mean(values)))}{'' if low is None else ' ' + interval(low, high)}"


def _signed(values: Sequence[float], level: float = 0.95) -> str:
    low, high = mean_interval(values, level)
    middle = float(np.mean(values))
    return f"{'+' if middle >= 0 else ''}{number(middle)}{'' if low is None else ' ' + interval(low, high)}"


def _line(rule: Rule, style: int) -> Series:
    steps = min(len(run.loops) for run in rule.runs.values())
    columns = [[run.loops[step] for run in rule.runs.values()] for step in range(steps)]
    ends = [mean_interval(column) for column in columns]
    known = all(low is not None for low, _ in ends)
    return Series(
        name=rule.name,
        x=list(range(steps)),
        y=[float(np.mean(column)) for column in columns],
        low=[float(low or 0) for low, _ in ends] if known else None,
        high=[float(high or 0) for _, high in ends] if known else None,
        style=style,
    )


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
