"""Comparisons of replays as tables and sentences."""

import math
from collections.abc import Iterator

import numpy as np
from rich.markup import escape
from rich.table import Table as Terminal
from rich.text import Text

from xp.metrics.replay import MODES
from xp.metrics.replay_summary import MEASURES, estimate
from xp.report.comparisons import SHOWN, Comparison, ReplayDifference, Variant, comparisons, paired, paired_grids
from xp.report.findings import Finding
from xp.report.numbers import interval, number
from xp.report.read import Experiment
from xp.report.tables import Table

REFERENCES = {"hold_last": "hold-last", "demonstration": "demonstration"}
SIGNS = {"lower": "↓", "higher": "↑", "not distinguishable": "≈"}


def continuity_tables(experiment: Experiment) -> list[Table]:
    """For each comparison and mode: each measure of each variant, its difference from the baseline, and the spread."""
    return [_table(found, mode) for found in comparisons(experiment) for mode in found.modes]


def _table(found: Comparison, mode: str) -> Table:
    heads = ["variant", "n"]
    for measure in SHOWN:
        heads += [_label(measure), *(["against the baseline"] if found.baseline else []), "spread"]
    rows = [_row(found, variant, mode) for variant in found.everyone]
    rows += [_reference(found, name, mode) for name in REFERENCES]
    return Table(
        title=f"{found.title}: {MODES.get(mode, mode)}", heads=tuple(heads), rows=tuple(rows), note=_note(found)
    )


def _note(found: Comparison) -> str:
    text = (
        "Means over held-out episodes and seeds with 95% intervals (std: standard deviation in training). Spread: "
        "range over seeds; ckpt: standard deviation between neighbouring checkpoints of one training. "
    )
    if found.baseline is None:
        return text
    return text + (
        f"Differences are paired by episode and seed, against {found.baseline.name}; their intervals are at "
        f"{100 * found.level:.3g}% each, so that all of one measure hold together with 95% (Bonferroni)."
    )


def _row(found: Comparison, variant: Variant, mode: str) -> tuple[str, ...]:
    name = f"{variant.name} (baseline)" if variant is found.baseline else variant.name
    cells = [name, _episodes_and_seeds(variant, mode)]
    for measure in SHOWN:
        cells.append(mean_of(variant, mode, measure))
        if found.baseline is not None:
            cells.append(format_difference(found.difference(variant, mode, measure)))
        cells.append(_spread(variant, mode, measure))
    return tuple(cells)


def _reference(found: Comparison, row: str, mode: str) -> tuple[str, ...]:
    """What holding the last action, or the demonstration itself, scores on the same episodes."""
    variant = found.everyone[0]
    cells = [REFERENCES[row], _episodes_and_seeds(variant, mode)]
    for measure in SHOWN:
        cells += [mean_of(variant, mode, measure, row), *(["–"] if found.baseline else []), "–"]
    return tuple(cells)


def mean_of(variant: Variant, mode: str, measure: str, row: str = "policy") -> str:
    """`0.41 [0.38, 0.45]`: the mean over episodes (each averaged over seeds) and its interval over episodes."""
    value, low, high = _mean(variant, mode, measure, row)
    return number(value) if low is None else f"{number(value)} {interval(low, high)}"


def format_difference(difference: ReplayDifference | None) -> str:
    """`−0.02 [−0.05, 0.01], not distinguishable`."""
    if difference is None:
        return "–"
    ends = interval(difference.low, difference.high)
    return f"{number(difference.value)} {ends}, {difference.verdict}"


def _mean(variant: Variant, mode: str, measure: str, row: str) -> tuple[float | None, float | None, float | None]:
    grid = variant.grid(mode, measure, row)
    episodes = sorted({episode for _, episode in grid})
    if not episodes:
        return None, None, None
    values = np.array([np.mean([value for (_, e), value in grid.items() if e == episode]) for episode in episodes])
    entry = estimate(values, np.array(episodes), seed=0, resamples=2000)
    return entry["value"], entry["low"], entry["high"]


def _spread(variant: Variant, mode: str, measure: str) -> str:
    seeds, between = variant.by_seed(mode, measure), variant.spread_over_checkpoints(mode, measure)
    parts = [f"{number(min(seeds))} to {number(max(seeds))}"] if len(seeds) > 1 else []
    parts += [f"ckpt {number(between)}"] if between is not None else []
    return ", ".join(parts) or "–"


def _episodes_and_seeds(variant: Variant, mode: str) -> str:
    grid = variant.grid(mode, "l1")
    return f"{len({e for _, e in grid})} episodes × {len({s for s, _ in grid})} seeds".replace("× 1 seeds", "× 1 seed")


def _label(measure: str) -> str:
    known = MEASURES[measure]
    return known.label if known.unit == "1" else f"{known.label} ({known.unit})"


def continuity_findings(experiment: Experiment) -> Iterator[Finding]:
    """For each comparison: the variant that tracks best with evidence, and what differs from the baseline."""
    for found in comparisons(experiment):
        yield from _best(found)
        yield from _against_baseline(found)


def _best(found: Comparison) -> Iterator[Finding]:
    """The variant with the lowest tracking error, its rival in pairs, and whether it beats holding still."""
    mode = found.main_mode
    ranked = sorted(
        (variant for variant in found.everyone if variant.grid(mode, "l1")),
        key=lambda variant: _mean(variant, mode, "l1", "policy")[0] or 0,
    )
    if not ranked:
        return
    best = ranked[0]
    versus = paired_grids(best.grid(mode, "l1"), best.grid(mode, "l1", "hold_last"))
    beats_holding = versus is not None and versus.is_clear and versus.value < 0
    difference = paired(best, ranked[1], mode, "l1") if len(ranked) > 1 else None
    if difference is None:
        text = f"{found.title}: {best.name} tracks with an error of {mean_of(best, mode, 'l1')} std"
        yield Finding(f"{text}.", "good" if beats_holding else "neutral")
    else:
        second = f"{ranked[1].name} with {mean_of(ranked[1], mode, 'l1')}"
        ends = f"{number(difference.value)} {interval(difference.low, difference.high)} over {_pairs(difference)}"
        if difference.is_clear:
            text = f"{found.title}: {best.name} tracks best, {mean_of(best, mode, 'l1')} std; next {second}"
            yield Finding(f"{text} (paired difference {ends}).", "good" if beats_holding else "neutral")
        else:
            why = "too few episodes to tell" if difference.too_few else "the interval holds 0"
            text = (
                f"{found.title}: no variant is shown to track best. The lowest error is that of {best.name}, "
                f"{mean_of(best, mode, 'l1')} std, before {second}; the paired difference may be chance ({ends}: {why})"
            )
            yield Finding(f"{text}.")
    if versus is not None and not beats_holding:
        yield Finding(
            f"{found.title}: {best.name} is not shown to track better than holding the last action "
            f"({mean_of(best, mode, 'l1', 'hold_last')} std).",
            "bad",
        )


def _against_baseline(found: Comparison) -> Iterator[Finding]:
    """Which variants differ from the baseline in which measure, and which do not."""
    mode = found.main_mode
    rivals = [variant for variant in found.variants if variant is not found.baseline]
    if found.baseline is None or not rivals:
        return
    for measure in SHOWN:
        known = {variant: found.difference(variant, mode, measure) for variant in rivals}
        known_differences = [difference for difference in known.values() if difference is not None]
        if known_differences and all(difference.too_few for difference in known_differences):
            few = min(known_differences, key=lambda difference: difference.episodes)
            yield Finding(
                f"{found.title}: {_pairs(few)} are too few to tell any variant from {found.baseline.name}; at least "
                f"{_enough(few.level)} episodes are needed for {len(rivals)} comparisons at 95%."
            )
            return
        clear = [f"{variant.name} is {d.verdict} ({number(d.value)} {interval(d.low, d.high)})"
                 for variant, d in known.items() if d is not None and d.is_clear]  # fmt: skip
        rest = [variant.name for variant, d in known.items() if d is not None and not d.is_clear]
        parts = clear + ([f"{', '.join(rest)}: not distinguishable"] if rest else [])
        if parts:
            label = MEASURES[measure].label
            yield Finding(f"{found.title}, {label} against {found.baseline.name}: {'; '.join(parts)}.")


def _enough(level: float) -> int:
    """The smallest number of episodes that can tell anything at this level."""
    return math.ceil(1 - math.log2(1 - level))


def _pairs(difference: ReplayDifference) -> str:
    seeds = "1 seed" if difference.seeds == 1 else f"{difference.seeds} seeds"
    return f"{difference.episodes} episodes and {seeds}"


def continuity_terminal(experiment: Experiment) -> list[Terminal | Text]:
    """For each comparison a table that fits 80 columns, and in words which variant tracks best.

    The table has the main mode and three measures, with differences below the values.
    """
    parts: list[Terminal | Text] = []
    for found in comparisons(experiment):
        parts += [_terminal(found), *(Text(finding.text) for finding in _best(found))]
    return parts


def _terminal(found: Comparison) -> Terminal:
    mode = found.main_mode
    caption = f"{_episodes_and_seeds(found.everyone[0], mode)}, {MODES.get(mode, mode)}. "
    caption += "[95% interval], std of training."
    if found.baseline is not None:
        caption += " Below: paired difference from the baseline; ↓ lower, ↑ higher, ≈ not distinguishable."
    table = Terminal(title=found.title, caption=caption)
    table.add_column("", overflow="fold", min_width=13)
    measures = [measure for measure in SHOWN if measure != "velocity_jump"]
    for measure in measures:
        table.add_column(MEASURES[measure].label, justify="right")
    for variant in found.everyone:
        cells = [_cell(found, variant, mode, measure) for measure in measures]
        name = f"{escape(variant.name)}\n[dim](baseline)[/dim]" if variant is found.baseline else escape(variant.name)
        table.add_row(name, *cells, end_section=variant is found.everyone[-1])
    for row, name in REFERENCES.items():
        cells = [_stacked(mean_of(found.everyone[0], mode, measure, row)) for measure in measures]
        table.add_row(name, *cells, style="dim")
    return table


def _cell(found: Comparison, variant: Variant, mode: str, measure: str) -> str:
    text = _stacked(mean_of(variant, mode, measure))
    difference = found.difference(variant, mode, measure)
    if difference is None:
        return text
    return f"{text}\n{number(difference.value)} {SIGNS[difference.verdict]}"


def _stacked(text: str) -> str:
    """The interval below its value."""
    value, _, ends = text.partition(" ")
    return f"{value}\n[dim]{escape(ends)}[/dim]" if ends else value
