"""Normalisation statistics that travel with weights: merged if equal, pooled with a warning otherwise, or refused.

A standard deviation is never averaged: two halves N(-1, 0.2) and N(+1, 0.2) have a deviation of 1.02 together, not
0.2. Statistics of different data pool as those of the joined data: means and variances by the counts, bounds as bounds,
quantiles as the outermost of the given ones (a bound; the data itself would be needed for more).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from xp import atomic
from xp.checkpoints.safetensors import open_safetensors
from xp.checkpoints.sidecar import STATISTICS, statistics_files
from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.json_file import read_fields, read_object
from xp.foreign.statistics import checked_statistics
from xp.json_types import JSONObject

POLICIES = ("pool", "refuse")
TOLERANCE = 1e-6
"""Relative difference up to which two statistics are one, computed in different orders."""
LOW = ("min", "q01", "p01", "q10", "p10", "q05", "p05")
HIGH = ("max", "q99", "p99", "q90", "p90", "q95", "p95")
MIDDLE = ("q50", "p50", "median")
type Entry = Mapping[str, ArrayLike | None]
"""Statistics of one feature, {mean, std, min, max, q01, ...: numbers}, each in its file's own form."""


@dataclass(frozen=True)
class Pooled:
    """Statistics for the merged checkpoint: file contents by relative path, and what there is to say about them."""

    how: str
    """equal, pooled, or none (the inputs have none)."""
    warnings: tuple[str, ...] = ()
    changed: tuple[tuple[str, Mapping[str, Entry]], ...] = ()
    """(file, {feature: entry}) for files whose content is not that of the first input."""


def same(entries: Sequence[Entry]) -> bool:
    """Whether the entries of one feature agree within `TOLERANCE`."""
    first = entries[0]
    return all(
        entry.keys() == first.keys() and all(_close(key, first[key], entry[key]) for key in first)
        for entry in entries[1:]
    )


def _close(key: str, one: ArrayLike | None, other: ArrayLike | None) -> bool:
    if one is None or other is None:
        return one is other
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return a.shape == b.shape and (key == "count" or np.allclose(a, b, rtol=TOLERANCE, atol=1e-9))


def pool(entries: Sequence[Entry], counts: Sequence[float]) -> dict[str, np.ndarray | None]:
    """Statistics of the joined data from those of its parts.

    Mean: sum n_k m_k / n. Variance: sum n_k (s_k^2 + (m_k - mean)^2) / n, the law of total variance, exact for
    population deviations. Lower quantiles and minima: the lowest; upper ones and maxima: the highest; a median: the
    count-weighted mean of the medians, which lies between them. Counts add up; a mask holds where all hold.

    Raises:
        UserError: the parts have different statistics or shapes.
    """
    keys = list(entries[0])
    for entry in entries[1:]:
        if list(entry) != keys or any(_shape(entry[key]) != _shape(entries[0][key]) for key in keys if key != "count"):
            raise UserError(
                "The checkpoints' statistics have different entries or sizes "
                f"({join_names(keys)} and {join_names(entry)}), so they cannot be pooled. Merge policies of one robot."
            )
    share = np.asarray(counts, np.float64) / np.sum(counts)
    return {key: _pooled(key, entries, share) for key in keys}


def _pooled(key: str, entries: Sequence[Entry], share: Float64[np.ndarray, " parts"]) -> np.ndarray | None:
    given = [found for entry in entries if (found := entry[key]) is not None]
    if len(given) < len(entries):
        return None
    values = np.stack([np.asarray(found, np.float64) for found in given])
    if key == "count":
        return values.sum(axis=0).astype(np.asarray(given[0]).dtype)
    if key in LOW:
        found = values.min(axis=0)
    elif key in HIGH:
        found = values.max(axis=0)
    elif key == "std":
        means = np.stack([np.asarray(entry["mean"], np.float64) for entry in entries])
        spread = means - np.tensordot(share, means, axes=1)
        found = np.sqrt(np.tensordot(share, values**2 + spread**2, axes=1))
    elif key == "mask":
        return np.asarray(values.all(axis=0))
    elif key == "mean" or key in MIDDLE:
        found = np.tensordot(share, values, axes=1)
    else:
        raise UserError(
            f"The statistic '{key}' cannot be pooled from that of the parts. Merge checkpoints that share their "
            "statistics (merge.statistics=refuse says which do not), or recompute them from the joined data."
        )
    kind = np.asarray(given[0]).dtype
    return found.astype(kind) if kind.kind == "f" else found


def _shape(value: ArrayLike | None) -> tuple[int, ...] | None:
    return None if value is None else np.shape(value)


def merge_files(folders: Sequence[Path], policy: str) -> Pooled:
    """The statistics of checkpoints whose sidecar files lie in `folders`.

    Raises:
        UserError: they differ and the policy is `refuse`, or they cannot be pooled.
    """
    if policy not in POLICIES:
        raise UserError(
            f"merge.statistics={policy}: allowed are {join_names(POLICIES)}{did_you_mean(policy, POLICIES)}"
        )
    files = [statistics_files(folder) for folder in folders]
    if not files or not any(files):
        return Pooled("none")
    if any(set(found) != set(files[0]) for found in files[1:]):
        text = "; ".join(f"{folder}: {join_names(sorted(found))}" for folder, found in zip(folders, files))
        raise UserError(
            f"The checkpoints do not carry the same statistics files ({text}). Copy the missing ones from where the "
            "checkpoints came from: a policy without its statistics acts wrongly."
        )
    changed: list[tuple[str, Mapping[str, Entry]]] = []
    unequal: list[str] = []
    counted = True
    for name in files[0]:
        parts = [read(found[name]) for found in files]
        features = {feature: [part.get(feature, {}) for part, _ in parts] for feature in parts[0][0]}
        if all(part.keys() == features.keys() for part, _ in parts) and all(same(e) for e in features.values()):
            continue
        unequal.append(name)
        known = [count for _, count in parts]
        counted &= all(known)
        counts = [float(count or 1) for count in known] if all(known) else [1.0] * len(parts)
        changed.append((name, {feature: pool(entries, counts) for feature, entries in features.items()}))
    if not unequal:
        return Pooled("equal")
    return _unequal(folders, unequal, policy, changed, counted)


def _unequal(
    folders: Sequence[Path],
    unequal: list[str],
    policy: str,
    changed: Sequence[tuple[str, Mapping[str, Entry]]],
    counted: bool,
) -> Pooled:
    where = f"{join_names(unequal)} of {join_names(map(str, folders))}"
    if policy == "refuse":
        raise UserError(
            f"The checkpoints were trained with different statistics ({where}). Train them with the same ones, or let "
            "them be pooled as those of the joined data: merge.statistics=pool"
        )
    weights = "their counts" if counted else "equal weights, since the files do not say their counts"
    text = (
        f"The checkpoints were trained with different statistics ({where}): pooled by {weights}, quantiles as bounds. "
        "Each checkpoint's weights expect its own statistics, so measure the merged policy before using it."
    )
    return Pooled("pooled", (text,), tuple(changed))


def read(file: Path) -> tuple[dict[str, Entry], float | None]:
    """Entries by feature, and how many samples they are over where the file says so.

    Raises:
        UserError: the file cannot be read as statistics, or they are none that anything is normalised by.
    """
    try:
        entries, count = _entries(file)
        for feature, entry in entries.items():
            known = {word: value for word, value in entry.items() if word != "count"}  # a float in some files
            if known.get("mean") is not None and known.get("std") is not None:
                checked_statistics(known, f"{file}: {feature}")
        return entries, count
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} cannot be read as statistics ({type(error).__name__}: {error}). Copy it again from where the "
            "checkpoint came from."
        ) from error


def _entries(file: Path) -> tuple[dict[str, Entry], float | None]:
    if file.suffix == ".safetensors":
        return _read_processor(file)
    content = read_fields(file, STATISTICS)
    if "norm_stats" in content.content:
        entries = content.object("norm_stats").objects()
        return {name: _numbers(entry.content) for name, entry in entries}, None
    return _read_flat(content.content)


def _read_processor(file: Path) -> tuple[dict[str, Entry], float | None]:
    entries: dict[str, dict[str, np.ndarray]] = {}
    for key, value in open_safetensors((file,), what="a processor's statistics").load().items():
        feature, _, word = key.rpartition(".")
        entries.setdefault(feature, {})[word] = value
    counts = [float(np.ravel(entry["count"])[0]) for entry in entries.values() if "count" in entry]
    return dict(entries), counts[0] if counts else None


def _numbers(entry: JSONObject) -> dict[str, np.ndarray | None]:
    """An entry whose every field is numbers or null.

    Raises:
        ValueError, TypeError: something else.
    """
    for value in entry.values():
        np.array(0.0 if value is None else value, np.float64)
    return {word: None if value is None else np.array(value) for word, value in entry.items()}


def _read_flat(content: JSONObject, prefix: str = "") -> tuple[dict[str, Entry], float | None]:
    """`dataset_statistics.json` of one dataset, or of several by name (features then are `dataset/feature`)."""
    entries: dict[str, Entry] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and "mean" in value:
            entries[prefix + name] = _numbers(value)
        elif isinstance(value, Mapping) and not prefix:
            entries |= _read_flat(value, f"{name}/")[0]
    if not entries:
        raise ValueError("no entry with a mean")
    count = content.get("num_transitions")
    return entries, float(count) if isinstance(count, int | float) else None


def write_like(sources: Sequence[Path], target: Path, entries: Mapping[str, Entry]) -> None:
    """Write pooled entries in the form of the files they came from; counts of a whole file add up."""
    source = sources[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".safetensors":
        from safetensors.numpy import save_file

        flat = {f"{feature}.{word}": np.ascontiguousarray(v) for feature, e in entries.items() for word, v in e.items()}
        save_file(flat, target)
        return
    content: dict[str, Any]  # as deep as its authors made it: changed where it stands
    others: list[Any]
    content, *others = (read_object(file, STATISTICS) for file in sources)
    for count in ("num_transitions", "num_trajectories"):
        if count in content:
            content[count] += sum(other.get(count, 0) for other in others)
    for feature, entry in entries.items():
        node = content.get("norm_stats", content)
        *parents, last = feature.split("/")
        for parent in parents:
            node = node[parent]
        node[last] = {**node[last], **entry}
    atomic.write_json(target, content, durable=False)
