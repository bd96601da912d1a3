"""What the replays of an experiment say: arms (trainings that differ in the seed alone) against a baseline, in pairs.

An experiment file names its comparisons in `experiment.comparisons`: the stage whose trainings are compared, and the
values by which the baseline is found (in `baseline_stage`, by default the same stage). A difference is taken on the
same episode and seed on both sides, so that what is hard for both cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np

from xp.checkpoints.reference import CheckpointRef
from xp.metrics.intervals import crossed_interval
from xp.report.read import Entry, Experiment, flat
from xp.report.results import differing_keys

SHOWN = ("l1", "boundary_jump", "velocity_jump", "u_a_ratio")
"""The measures that are compared; all are in the runs' metrics.json."""
_EXECUTION = ("chunk_size.", "eval.delay", "eval.jitter")


Grid = dict[tuple[int, int], float]
"""{(seed, episode): value}."""


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline of one measure: its mean over pairs and the interval, None without one."""

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
        known = self.low is not None and self.high is not None and not self.too_few
        return known and (self.low > 0 or self.high < 0)  # type: ignore[operator]

    @property
    def verdict(self) -> str:
        """`lower`, `higher`, or `not distinguishable`."""
        if not self.is_clear:
            return "not distinguishable"
        return "lower" if self.value < 0 else "higher"


@dataclass(frozen=True, eq=False)
class Arm:
    """Trainings that differ in the seed alone, each with its replay."""

    name: str
    replays: tuple[tuple[int, Entry], ...]
    """(seed, replay)."""

    def grid(self, mode: str, measure: str, row: str = "policy") -> Grid:
        """One measure of one row, where it is defined."""
        found = {}
        for seed, replay in self.replays:
            episodes = ((replay.metrics.get("replay") or {}).get(mode) or {}).get(row, {}).get("episodes") or {}
            for episode, value in zip(episodes.get("index", ()), episodes.get(measure, ())):
                if value is not None:
                    found[seed, episode] = float(value)
        return found

    def spread_over_checkpoints(self, mode: str, measure: str) -> float | None:
        """The largest standard deviation between neighbouring checkpoints of one training; None where one is known."""
        entries = [((e.metrics.get("spread") or {}).get(mode) or {}).get(measure) or {} for _, e in self.replays]
        return max((entry["sd"] for entry in entries if entry.get("sd") is not None), default=None)

    def by_seed(self, mode: str, measure: str) -> list[float]:
        """The mean over episodes of each training."""
        grid = self.grid(mode, measure)
        seeds = sorted({seed for seed, _ in grid})
        return [float(np.mean([value for (s, _), value in grid.items() if s == seed])) for seed in seeds]


@dataclass(frozen=True)
class Comparison:
    """Arms of one stage, and the baseline among them or beside them."""

    title: str
    arms: tuple[Arm, ...]
    baseline: Arm | None

    @cached_property
    def modes(self) -> list[str]:
        """The modes that any replay has."""
        found = [mode for arm in self.everyone for _, replay in arm.replays for mode in replay.metrics["replay"]]
        return list(dict.fromkeys(found))

    @property
    def main_mode(self) -> str:
        """The mode that is most like a robot without delay: what summaries are about."""
        return "self_chained" if "self_chained" in self.modes else self.modes[0]

    @property
    def everyone(self) -> tuple[Arm, ...]:
        """The arms, with the baseline in front where it is from another stage."""
        outside = self.baseline is not None and self.baseline not in self.arms
        return (self.baseline, *self.arms) if outside and self.baseline else self.arms

    @property
    def level(self) -> float:
        """Level of each interval, such that all of them together hold with 95% (Bonferroni)."""
        rivals = sum(arm is not self.baseline for arm in self.everyone) if self.baseline else 1
        return 1 - 0.05 / max(1, rivals)

    def difference(self, arm: Arm, mode: str, measure: str) -> Difference | None:
        """The arm minus the baseline; None for the baseline itself, or without a common episode and seed."""
        return None if self.baseline in (None, arm) else paired(arm, self.baseline, mode, measure, self.level)


def paired(first: Arm, second: Arm, mode: str, measure: str, level: float = 0.95) -> Difference | None:
    """`first` minus `second` over the episodes and seeds that both have."""
    return paired_grids(first.grid(mode, measure), second.grid(mode, measure), level)


def paired_grids(one: Grid, other: Grid, level: float = 0.95) -> Difference | None:
    """`one` minus `other` where both are known; None where that is nowhere."""
    common = one.keys() & other.keys()
    seeds = sorted({seed for seed, _ in common})
    episodes = sorted({e for _, e in common if all((seed, e) in common for seed in seeds)})
    if not episodes:
        return None
    pairs = np.array([[one[seed, e] - other[seed, e] for e in episodes] for seed in seeds])
    low, high = crossed_interval(pairs, level=level)
    return Difference(float(pairs.mean()), low, high, episodes=len(episodes), seeds=len(seeds), level=level)


def comparisons(experiment: Experiment) -> list[Comparison]:
    """What the experiment file asks for, as far as there are replays; without it, all replays beside each other."""
    wanted = next((found for run in experiment.runs if (found := _asked(run.config))), None)
    trainings = _trained(experiment)
    if not trainings:
        return []
    if wanted is None:
        return [Comparison(title="Continuity of chunks", arms=_arms(trainings), baseline=None)]
    made = [_comparison(entry, trainings) for entry in wanted]
    return [each for each in made if each.arms]


def _comparison(entry: Mapping[str, Any], trainings: Sequence[tuple[Entry, Entry]]) -> Comparison:
    stage = entry["stage"]
    arms = _arms([pair for pair in trainings if pair[0].stage == stage])
    beside = [pair for pair in trainings if pair[0].stage == entry.get("baseline_stage", stage)]
    values = entry.get("baseline") or {}
    fitting = [pair for pair in beside if all(_equal(flat(pair[0].config).get(k), v) for k, v in flat(values).items())]
    if not fitting:
        return Comparison(entry["title"], arms, None)
    own = next((arm for arm in arms if {id(e) for _, e in arm.replays} == {id(e) for _, e in fitting}), None)
    return Comparison(entry["title"], arms, own or _joined(str(entry.get("baseline_name", "baseline")), fitting))


def _trained(experiment: Experiment) -> list[tuple[Entry, Entry]]:
    """(training, replay) of every finished replay; where the training is not of this experiment, the replay twice."""
    by_name = {PurePath(run.name).name: run for run in experiment.runs}
    pairs = []
    for run in experiment.runs:
        if run.metrics.get("replay") and run.standing == "done":
            checkpoint = CheckpointRef.parse(str(run.metrics.get("checkpoint", ""))).path.name
            pairs.append((by_name.get(checkpoint, run), run))
    return pairs


def _arms(pairs: Sequence[tuple[Entry, Entry]]) -> tuple[Arm, ...]:
    """Trainings grouped by what sets them apart, the seed left out; replays also by how they were executed."""
    trained = [key for key in differing_keys([training for training, _ in pairs]) if key != "seed"]
    executed = [key for key in differing_keys([replay for _, replay in pairs]) if key.startswith(_EXECUTION)]
    groups: dict[str, list[tuple[Entry, Entry]]] = {}
    for training, replay in pairs:
        values = {**{key: flat(replay.config).get(key) for key in executed},
                  **{key: flat(training.config).get(key) for key in trained}}  # fmt: skip
        words = [f"{key}={_short(value)}" for key, value in values.items() if _is_telling(value)]
        groups.setdefault(", ".join(words) or training.stage, []).append((training, replay))
    return tuple(_joined(name, members) for name, members in groups.items())


def _joined(name: str, pairs: Sequence[tuple[Entry, Entry]]) -> Arm:
    return Arm(name, tuple((int(training.config.get("seed") or 0), replay) for training, replay in pairs))


def _asked(config: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    experiment = config.get("experiment")
    return experiment.get("comparisons") if isinstance(experiment, Mapping) else None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-12 * max(abs(one), abs(other), 1e-12)
    return one == other


def _is_telling(value: Any) -> bool:
    return not (isinstance(value, list) or isinstance(value, str) and "/" in value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
