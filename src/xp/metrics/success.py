"""Closed-loop success as a record: the rate, its interval, and every episode behind it."""

from typing import Any

import numpy as np

from xp.metrics.intervals import wilson


def success_metrics(successes: np.ndarray, seeds: np.ndarray, *, steps: np.ndarray | None = None) -> dict[str, Any]:
    """Outcomes [E] of episodes started from `seeds` [E] (and their lengths `steps` [E]) as plain JSON values.

    The rate carries its Wilson 95% interval; the list of initial states lets anybody repeat any episode.
    """
    outcomes = np.asarray(successes, dtype=bool)
    assert len(outcomes) == len(seeds), f"{len(outcomes)} outcomes for {len(seeds)} initial states"
    low, high = wilson(int(outcomes.sum()), len(outcomes))
    result: dict[str, Any] = {
        "success_rate": float(outcomes.mean()) if len(outcomes) else None,
        "success_interval": {"low": low, "high": high, "level": 0.95, "method": "wilson"},
        "num_episodes": len(outcomes),
        "num_success": int(outcomes.sum()),
        "initial_states": np.asarray(seeds).tolist(),
        "successes": outcomes.tolist(),
    }
    return result if steps is None else {**result, "steps": np.asarray(steps).tolist()}
