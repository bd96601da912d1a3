"""Runs as rows: what sets them apart, how they ended, which was best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xp.report.read import Entry, Experiment, flat

_NOT_SCIENCE = ("hydra.", "paths.", "stages.", "experiment.", "logger.")
_NOT_SHOWN = {"timestamp", "epoch", "step"}
_PREFERRED = ("val_loss", "l1_error", "loss")


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Configuration keys that differ between runs: a column per key, a row of values per run."""

    stage: str
    keys: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def differing_keys(runs: Sequence[Entry]) -> tuple[str, ...]:
    """Dotted keys whose value is not the same in all runs, in order of appearance; places and logging are left out."""
    configs = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    absent = object()
    return tuple(
        key
        for key in keys
        if not key.startswith(_NOT_SCIENCE)
        and any(config.get(key, absent) != configs[0].get(key, absent) for config in configs)
    )


def differences(experiment: Experiment) -> list[Differences]:
    """Per stage: the configuration keys that differ between its runs, with their values; stages without any are out."""
    result = []
    for stage, runs in experiment.stages().items():
        known = [run for run in runs if run.config]
        keys = differing_keys(known)
        if keys:
            rows = tuple(
                (run.name, tuple(_shown(flat(run.config).get(key), experiment) for key in keys)) for run in known
            )
            result.append(Differences(stage=stage, keys=keys, rows=rows))
    return result


def label_of(run: Entry, runs: Sequence[Entry]) -> str:
    """What to call a run among others: its differing values if they are few and short, else its name."""
    keys = [key for key in differing_keys(runs) if not isinstance(flat(run.config).get(key), list)]
    values = [f"{key}={flat(run.config).get(key)}" for key in keys]
    text = ", ".join(values)
    return text if 0 < len(keys) <= 2 and len(text) <= 48 else run.name


def last_values(run: Entry) -> dict[str, float]:
    """The last known number of each column of the training and then the validation log."""
    found: dict[str, float] = {}
    for row in [*run.training, *run.validation]:
        found.update({key: float(value) for key, value in row.items() if key not in _NOT_SHOWN and _is_number(value)})
    return found


def best_of(run: Entry) -> tuple[float, int, str] | None:
    """(lowest value, its step, column) of the run's validation log, or of its training loss where it has no other."""
    for rows, key in ((run.validation, "val_loss"), (run.validation, "l1_error"), (run.training, "loss")):
        known = [(float(row[key]), int(row.get("step") or 0), key) for row in rows if _is_number(row.get(key))]
        if known:
            return min(known)
    return None


def best_run(runs: Sequence[Entry]) -> tuple[Entry, float, str] | None:
    """The run with the lowest value of the first measure that all finished runs share; None without any."""
    scored = [(best, run) for run in runs if (best := best_of(run))]
    if not scored or len({best[2] for best, _ in scored}) > 1:
        return None
    (value, _, key), run = min(scored, key=lambda pair: pair[0][0])
    return run, value, key


def columns_of(runs: Sequence[Entry]) -> list[str]:
    """Log columns worth a column in the table of runs: the usual ones first, at most six."""
    keys = dict.fromkeys(key for run in runs for key in last_values(run))
    ordered = [key for key in _PREFERRED if key in keys] + [key for key in keys if key not in _PREFERRED]
    return [key for key in ordered if key != "lr"][:6]


def flat_value(run: Entry, key: str) -> str:
    """A run's configuration value by dotted key, as text; a dash where it is not set."""
    value = flat(run.config).get(key)
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: Any, experiment: Experiment) -> str:
    """A configuration value as text, with paths relative to the experiment."""
    if isinstance(value, float):
        return f"{value:g}"
    text = "–" if value is None else str(value)
    for root in (str(experiment.folder.resolve()), str(experiment.folder)):
        text = text.replace(root + "/", "…/")
    return text if len(text) <= 80 else text[:77] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
