"""Statistics in LeRobot's form: of one episode after it was renumbered, and of many episodes together."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Num

from xp.json_types import JSON

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_PLACES = ("min", "max", "mean", *_QUANTILES)
"""Statistics that move with the values; std and count do not."""

Numbers = np.ndarray | JSON
"""An array, or the numbers of one as nested lists."""
Stats = Mapping[str, Mapping[str, Numbers]]
"""{feature: {statistic: numbers}}, as in meta/stats.json and in the columns of meta/episodes."""


def shifted(stats: Stats, shifts: Mapping[str, float]) -> dict[str, dict[str, Numbers]]:
    """The statistics of an episode whose features were all moved by a constant (`index`, `episode_index`)."""
    moved = {feature: dict(entry) for feature, entry in stats.items()}
    for feature, shift in shifts.items():
        for name, value in moved.get(feature, {}).items():
            if name in _PLACES:
                moved[feature][name] = (np.asarray(value, np.float64) + shift).tolist()
    return moved


def describe(values: Num[np.ndarray, "n ..."]) -> dict[str, np.ndarray]:
    """Exact statistics over the first axis of [n, D]: min, max, mean, std (population), count and quantiles."""
    wide = values.astype(np.float64)
    quantiles = np.quantile(wide, list(_QUANTILES.values()), axis=0)
    return {
        "min": wide.min(axis=0),
        "max": wide.max(axis=0),
        "mean": wide.mean(axis=0),
        "std": wide.std(axis=0),
        "count": np.array([len(wide)]),
        **dict(zip(_QUANTILES, quantiles, strict=True)),
    }


def pooled(entries: Sequence[Mapping[str, Numbers]]) -> dict[str, np.ndarray]:
    """Statistics of many episodes from those of each, for images, which are not decoded again.

    Mean and variance are exact for the pixels that each episode's statistics were taken from (Chan, Golub and LeVeque
    1979: the pooled variance is the mean of variance plus squared offset). Quantiles cannot be had from quantiles:
    LeRobot writes their count-weighted mean, and so does this.
    """
    arrays = [{name: np.asarray(value, np.float64) for name, value in entry.items()} for entry in entries]
    counts = np.stack([entry["count"].reshape(-1)[0] for entry in arrays])
    share = counts / counts.sum()

    def weighted(name: str) -> np.ndarray:
        return np.tensordot(share, np.stack([entry[name] for entry in arrays]), axes=1)

    mean = weighted("mean")
    spread = np.stack([entry["std"] ** 2 + (entry["mean"] - mean) ** 2 for entry in arrays])
    together = {
        "min": np.min([entry["min"] for entry in arrays], axis=0),
        "max": np.max([entry["max"] for entry in arrays], axis=0),
        "mean": mean,
        "std": np.sqrt(np.tensordot(share, spread, axes=1)),
        "count": np.array([int(counts.sum())]),
    }
    return {**together, **{name: weighted(name) for name in _QUANTILES if all(name in entry for entry in arrays)}}
