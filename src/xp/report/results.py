"""Runs as rows: what sets them apart, how they ended, which was best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from xp.json_types import JSON, JSONObject
from xp.report.json_values import count, is_number, real, section
from xp.report.read import Entry, Experiment

_NOT_SCIENCE = ("hydra.", "paths.", "stages.", "experiment.", "logger.")
_NOT_SHOWN = {"timestamp", "epoch", "step"}
_PREFERRED = ("val_loss", "l1_error", "loss")


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Configuration keys that differ between runs: a column per key, a row of values per run."""

    stage: str
    keys: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


_differing: dict[tuple[int, ...], tuple[tuple[Entry, ...], tuple[str, ...]]] = {}
"""Answers for the last few sets of runs, by the runs' ids; the runs are kept so that no id is used twice."""


def differing_keys(runs: Sequence[Entry]) -> tuple[str, ...]:
    """Dotted keys whose value is not the same in all runs, in order of appearance; places and logging are left out."""
    key = tuple(map(id, runs))
    if key not in _differing:
        if len(_differing) >= 64:
            _differing.clear()
        _differing[key] = (tuple(runs), _differing_keys(runs))
    return _differing[key][1]


def _differing_keys(runs: Sequence[Entry]) -> tuple[str, ...]:
    configs = [run.flat for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    absent = object()
    return tuple(
        key
        for key in keys
        if not key.startswith(_NOT_SCIENCE)
        and any(config.get(key, absent) != configs[0].get(key, absent) for config in configs)
    )


def telling_keys(runs: Sequence[Entry]) -> list[str]:
    """Those of `differing_keys` that tell models apart: all but seeds."""
    return [key for key in differing_keys(runs) if key.rpartition(".")[2] != "seed"]


def differences(experiment: Experiment) -> list[Differences]:
    """Per stage: the configuration keys that differ between its runs, with their values; stages without any are out."""
    result = []
    for stage, runs in experiment.stages().items():
        known = [run for run in runs if run.config]
        keys = differing_keys(known)
        if keys:
            rows = tuple((run.name, tuple(_shown(run.flat.get(key), experiment) for key in keys)) for run in known)
            result.append(Differences(stage=stage, keys=keys, rows=rows))
    return result


def label_of(run: Entry, runs: Sequence[Entry]) -> str:
    """What to call a run among others: its name, or its differing values where those are shorter (hashed names)."""
    text = varied(run, differing_keys(runs))
    return text if text and len(text) < len(run.name) else run.name


def varied(run: Entry, keys: Sequence[str]) -> str:
    """`key=value, ...` for the given keys; paths and lists are left out."""
    values = {key: flat_value(run, key) for key in keys}
    return ", ".join(f"{key}={value}" for key, value in values.items() if not set(value) & set("/[{"))


@dataclass(frozen=True, kw_only=True)
class SuccessRate:
    """Closed-loop success of one policy on one task, or on all tasks of a run (`task` is then `all tasks`)."""

    run: Entry
    policy: str
    task: str
    rate: float
    low: float
    high: float
    successes: int
    episodes: int


def successes(run: Entry) -> list[SuccessRate]:
    """The success rates in an evaluation's metrics.json: per policy, all tasks first, then each; empty without any."""
    found = []
    for policy, entry in section(run.metrics, "policies").items():
        tasks = section(entry, "tasks")
        scored = [("all tasks", section(entry, "all")), *(tasks.items() if len(tasks) > 1 else ())]
        found += [rate for task, scores in scored if (rate := _success_rate(run, policy, task, section(scores)))]
    return found


def _success_rate(run: Entry, policy: str, task: str, scores: JSONObject) -> SuccessRate | None:
    ends = section(scores, "success_interval")
    rate, low, high = real(scores.get("success_rate")), real(ends.get("low")), real(ends.get("high"))
    won, episodes = count(scores.get("num_success")), count(scores.get("num_episodes"))
    if rate is None or low is None or high is None or won is None or episodes is None:
        return None
    return SuccessRate(
        run=run, policy=policy, task=task, rate=rate, low=low, high=high, successes=won, episodes=episodes
    )


def last_values(run: Entry) -> dict[str, float]:
    """The last known number of each column of the training and then the validation log."""
    found: dict[str, float] = {}
    for row in [*run.training, *run.validation]:
        found.update({key: float(value) for key, value in row.items() if key not in _NOT_SHOWN and _is_finite(value)})
    return found


def best_of(run: Entry) -> tuple[float, int, str] | None:
    """(lowest value, its step, column) of the run's validation log, or of its training loss where it has no other."""
    for rows, key in ((run.validation, "val_loss"), (run.validation, "l1_error"), (run.training, "loss")):
        known = [
            (float(value), int(real(row.get("step")) or 0), key) for row in rows if _is_finite(value := row.get(key))
        ]
        if known:
            return min(known)
    return None


_LOSS_OF = ("model.", "action_space.", "horizon.train", "data.")


def best_run(runs: Sequence[Entry]) -> tuple[Entry, float, str] | None:
    """The run with the lowest value of the first measure that all finished runs share; None without any.

    None, too, where runs differ in what a loss is a loss of: the model and its head, whether actions are differences,
    how many of them, and the data. Such values have other units, or other samples.
    """
    if any(key.startswith(_LOSS_OF) for key in differing_keys(runs)):
        return None
    scored = [(best, run) for run in runs if (best := best_of(run))]
    if not scored or len({best[2] for best, _ in scored}) > 1:
        return None
    (value, _, key), run = min(scored, key=lambda pair: pair[0][0])
    return run, value, key


def columns_of(runs: Sequence[Entry]) -> list[str]:
    """Log columns worth a column in the table of runs: the usual ones first, at most six; not those of one dataset."""
    keys = dict.fromkeys(key for run in runs for key in last_values(run))
    ordered = [key for key in _PREFERRED if key in keys] + [key for key in keys if key not in _PREFERRED]
    return [key for key in ordered if key != "lr" and "/" not in key][:6]


def flat_value(run: Entry, key: str) -> str:
    """A run's configuration value by dotted key, as text; a dash where it is not set."""
    value = run.flat.get(key)
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: JSON, experiment: Experiment) -> str:
    """A configuration value as text, with paths relative to the experiment."""
    if isinstance(value, float):
        return f"{value:g}"
    text = "–" if value is None else str(value)
    for root in (str(experiment.folder.resolve()), str(experiment.folder)):
        text = text.replace(root + "/", "…/")
    return text if len(text) <= 80 else text[:77] + "..."


def _is_finite(value: JSON) -> TypeGuard[int | float]:
    return is_number(value) and math.isfinite(value)
