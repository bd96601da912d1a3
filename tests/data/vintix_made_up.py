"""Vintix trajectories made up for tests, and where the reference lies."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "vintix"


def reference(relative: str) -> Path:
    """A file of the reference arrays; the test is skipped where they are absent."""
    if not (REFERENCE / relative).exists():
        pytest.skip(f"the reference arrays are not here: {REFERENCE / relative}")
    return REFERENCE / relative


def attempts(seed: int, lengths=(7, 1, 12, 30), state: int = 3, action: int = 2) -> list[dict[str, np.ndarray]]:
    """Attempts of made-up numbers."""
    draw = np.random.default_rng(seed)
    return [
        {
            "state": draw.normal(size=(n, state)).astype(np.float32),
            "action": draw.normal(size=(n, action)).astype(np.float32),
            "reward": draw.normal(size=n).astype(np.float32),
        }
        for n in lengths
    ]


def rows_of(seed: int = 0, lengths=(4, 3), state: int = 3, action: int = 2) -> dict[str, np.ndarray]:
    """The arrays of one HDF5 group."""
    parts = attempts(seed, lengths, state, action)
    return {
        "proprio_observation": np.concatenate([part["state"] for part in parts]),
        "action": np.concatenate([part["action"] for part in parts]),
        "reward": np.concatenate([part["reward"] for part in parts]),
        "step_num": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
    }


def describe(folder: Path, state: int = 3, action: int = 2, **more) -> None:
    """The JSON description of a task's folder."""
    content = {
        "task_name": folder.name,
        "observation_shape": {"proprio": [state]},
        "action_dim": action,
        "action_type": "continuous",
        **more,
    }
    (folder / f"{folder.name}.json").write_text(json.dumps(content))


def task_folder(folder: Path, groups: dict[str, dict[str, np.ndarray]] | None = None, **description) -> Path:
    """A folder of one history, by h5py alone."""
    folder.mkdir(parents=True)
    describe(folder, **description)
    with h5py.File(folder / "trajectories_env_0.h5", "w") as file:
        for name, arrays in ({"0-6": rows_of()} if groups is None else groups).items():
            group = file.create_group(name)
            for key, values in arrays.items():
                group.create_dataset(key, data=values)
    return folder
