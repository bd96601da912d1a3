"""The offline replays of an experiment, compared in pairs: variants against a baseline.

A variant is the trainings that differ in the seed alone.

An experiment file names its comparisons in `experiment.comparisons`: the stage whose trainings are compared, and the
values by which the baseline is found (in `baseline_stage`, by default the same stage). A difference is taken on the
same episode and seed on both sides, so that what is hard for both cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

import numpy as np

from xp.checkpoints.reference import CheckpointRef
from xp.json_types import JSON, JSONObject
from xp.metrics.intervals import crossed_interval
from xp.report.json_values import count, is_number, items, real, reals, section
from xp.report.read import Entry, Experiment, flat
from xp.report.results import differing_keys

SHOWN = ("l1", "boundary_jump", "velocity_jump", "u_a_ratio")
"""The measures that are compared; all are in the runs' metrics.json."""
_EXECUTION = ("chunk_size.", "eval.delay", "eval.jitter")


Grid = dict[tuple[int, int], float]
"""{(seed, episode): value}."""


@dataclass(frozen=True)
class ReplayDifference:
    """Variant minus baseline of one measure: its mean over pairs and the interval, None without one."""

    value: float
    low: float | None
    high: float | None
    episodes: int
    seeds: int
    level: float = 0.95
    """Of the interval."""

    @property
    def too_few(self) -> bool:
        """Whether so few episodes cannot tell anything at this level: if all their differences had one sign, that
        would be chance in 2 of 2^n cases (the exact sign test), and episodes are what is resampled.
        """
        return 2.0 ** (1 - self.episodes) > 1 - self.level + 1e-12

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out, and there are enough episodes for one."""
        if self.low is None or self.high is None or self.too_few:
            return False
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        """`lower`, `higher`, or `not distinguishable`."""
        if not self.is_clear:
            return "not distinguishable"
        return "lower" if self.value < 0 else "higher"


@dataclass(frozen=True, eq=False)
class Variant:
    """Trainings that differ in the seed alone, each with its replay."""

    name: str
    replays: tuple[tuple[int, Entry], ...]
    """(seed, replay)."""

    def grid(self, mode: str, measure: str, row: str = "policy") -> Grid:
        """One measure of one row, where it is defined."""
        found: Grid = {}
        for seed, replay in self.replays:
            episodes = section(replay.metrics, "replay", mode, row, "episodes")
            for episode, value in zip(map(count, items(episodes.get("index"))), reals(episodes.get(measure))):
                if episode is not None and value is not None:
                    found[seed, episode] = value
        return found

    def spread_over_checkpoints(self, mode: str, measure: str) -> float | None:
        """The largest standard deviation between neighbouring checkpoints of one training; None where one is known."""
        known = [real(section(e.metrics, "spread", mode, measure).get("sd")) for _, e in self.replays]
        return max((sd for sd in known if sd is not None), default=None)

    def by_seed(self, mode: str, measure: str) -> list[float]:
        """The mean over episodes of each training."""
        grid = self.grid(mode, measure)
        seeds = sorted({seed for seed, _ in grid})
        return [float(np.mean([value for (s, _), value in grid.items() if s == seed])) for seed in seeds]


@dataclass(frozen=True)
class Comparison:
    """Variants of one stage, and the baseline among them or beside them."""

    title: str
    variants: tuple[Variant, ...]
    baseline: Variant | None

    @cached_property
    def modes(self) -> list[str]:
        """The modes that any replay has."""
        replays = [replay for variant in self.everyone for _, replay in variant.replays]
        return list(dict.fromkeys(mode for replay in replays for mode in section(replay.metrics, "replay")))

    @property
    def main_mode(self) -> str:
        """The mode that is most like a robot without delay: what summaries are about."""
        return "self_chained" if "self_chained" in self.modes else self.modes[0]

    @property
    def everyone(self) -> tuple[Variant, ...]:
        """The variants, with the baseline in front where it is from another stage."""
        outside = self.baseline is not None and self.baseline not in self.variants
        return (self.baseline, *self.variants) if outside and self.baseline else self.variants

    @property
    def level(self) -> float:
        """Level of each interval, such that all of them together hold with 95% (Bonferroni)."""
        rivals = sum(variant is not self.baseline for variant in self.everyone) if self.baseline else 1
        return 1 - 0.05 / max(1, rivals)

    def difference(self, variant: Variant, mode: str, measure: str) -> ReplayDifference | None:
        """The variant minus the baseline; None for the baseline itself, or without a common episode and seed."""
        if self.baseline is None or variant is self.baseline:
            return None
        return paired(variant, self.baseline, mode, measure, self.level)


def paired(first: Variant, second: Variant, mode: str, measure: str, level: float = 0.95) -> ReplayDifference | None:
    """`first` minus `second` over the episodes and seeds that both have."""
    return paired_grids(first.grid(mode, measure), second.grid(mode, measure), level)


def paired_grids(one: Grid, other: Grid, level: float = 0.95) -> ReplayDifference | None:
    """`one` minus `other` where both are known; None where that is nowhere."""
    common = one.keys() & other.keys()
    seeds = sorted({seed for seed, _ in common})
    episodes = sorted({e for _, e in common if all((seed, e) in common for seed in seeds)})
    if not episodes:
        return None
    pairs = np.array([[one[seed, e] - other[seed, e] for e in episodes] for seed in seeds])
    low, high = crossed_interval(pairs, level=level)
    return ReplayDifference(float(pairs.mean()), low, high, episodes=len(episodes), seeds=len(seeds), level=level)


def comparisons(experiment: Experiment) -> list[Comparison]:
    """What the experiment file asks for, as far as there are replays; without it, all replays beside each other."""
    wanted = next((found for run in experiment.runs if (found := asked_comparisons(run.config))), None)
    trainings = _trained(experiment)
    if not trainings:
        return []
    if wanted is None:
        return [Comparison(title="Continuity of chunks", variants=_variants(trainings), baseline=None)]
    made = [_comparison(entry, trainings) for entry in wanted]
    return [each for each in made if each.variants]


def _comparison(entry: JSONObject, trainings: Sequence[tuple[Entry, Entry]]) -> Comparison:
    title, stage = str(entry["title"]), entry["stage"]
    variants = _variants([pair for pair in trainings if pair[0].stage == stage])
    beside = [pair for pair in trainings if pair[0].stage == entry.get("baseline_stage", stage)]
    wanted = flat(section(entry, "baseline"))
    fitting = [pair for pair in beside if all(equal_values(pair[0].flat.get(k), v) for k, v in wanted.items())]
    if not fitting:
        return Comparison(title, variants, None)
    replays = {id(replay) for _, replay in fitting}
    own = next((variant for variant in variants if {id(e) for _, e in variant.replays} == replays), None)
    return Comparison(title, variants, own or _joined(str(entry.get("baseline_name", "baseline")), fitting))


def _trained(experiment: Experiment) -> list[tuple[Entry, Entry]]:
    """(training, replay) of every finished replay; where the training is not of this experiment, the replay twice."""
    by_name = {PurePath(run.name).name: run for run in experiment.runs}
    pairs = []
    for run in experiment.runs:
        if run.metrics.get("replay") and run.standing == "done":
            checkpoint = CheckpointRef.parse(str(run.metrics.get("checkpoint", ""))).path.name
            pairs.append((by_name.get(checkpoint, run), run))
    return pairs


def _variants(pairs: Sequence[tuple[Entry, Entry]]) -> tuple[Variant, ...]:
    """Trainings grouped by what sets them apart, the seed left out; replays also by how they were executed."""
    trained = [key for key in differing_keys([training for training, _ in pairs]) if key != "seed"]
    executed = [key for key in differing_keys([replay for _, replay in pairs]) if key.startswith(_EXECUTION)]
    groups: dict[str, list[tuple[Entry, Entry]]] = {}
    for training, replay in pairs:
        values = {**{key: replay.flat.get(key) for key in executed}, **{key: training.flat.get(key) for key in trained}}
        words = [f"{key}={_short(value)}" for key, value in values.items() if _is_telling(value)]
        groups.setdefault(", ".join(words) or training.stage, []).append((training, replay))
    return tuple(_joined(name, members) for name, members in groups.items())


def _joined(name: str, pairs: Sequence[tuple[Entry, Entry]]) -> Variant:
    return Variant(name, tuple((count(training.config.get("seed")) or 0, replay) for training, replay in pairs))


def asked_comparisons(config: JSONObject) -> list[JSONObject]:
    """The comparisons that an experiment file names, as a run of it has them."""
    comparisons = items(section(config, "experiment").get("comparisons"))
    return [entry for entry in comparisons if isinstance(entry, Mapping)]


def equal_values(one: JSON, other: JSON) -> bool:
    """Whether two values of a configuration are the same, numbers up to rounding."""
    if is_number(one) and is_number(other):
        return abs(one - other) <= 1e-12 * max(abs(one), abs(other), 1e-12)
    return one == other


def _is_telling(value: JSON) -> bool:
    return not (isinstance(value, list) or isinstance(value, str) and "/" in value)


def _short(value: JSON) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
