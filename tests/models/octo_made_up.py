"""Small models, datasets and batches for the tests of xp.models, and the place of the reference arrays."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xp.models.policy import DataSpec

REFERENCE = Path(__file__).parents[2] / "../shared/reference/octo"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference arrays are not beside the checkout")

SMALL: dict[str, Any] = {
    "name": "octo_test",
    "family": "octo",
    "cameras": {"primary": {"camera": None, "size": [32, 32]}, "wrist": {"camera": None, "size": [16, 16]}},
    "goal_images": False,
    "language": {"encoder": "words", "max_length": 6, "buckets": 64, "hashes": 2, "features": 8, "trainable": True},
    "proprio": True,
    "stem": {"type": "patch", "features": [8, 8, 8, 8], "groups": 4, "tokens_dim": 16},
    "embed_dim": 32,
    "layers": 1,
    "num_heads": 4,
    "mlp_dim": 32,
    "readouts": 1,
    "head": {"type": "gaussian", "pooling": "map"},
    "history": 1,
    "max_history": 4,
    "repeat_task_tokens": None,
    "use_correct_attention": None,
}
DATA = DataSpec(cameras={"top": (48, 48, 3), "wrist": (48, 48, 3)}, action_dim=3, state_dim=2, fps=10)
STATISTICS = {
    "action": {"mean": [0.1, -2.0, 0.0], "std": [0.5, 3.0, 1.0], "mask": [True, True, False]},
    "proprio": {"mean": [1.0, 0.0], "std": [2.0, 1.0]},
    "num_transitions": 40,
    "num_trajectories": 2,
}


def model_cfg(**changes: Any) -> dict[str, Any]:
    """SMALL with changes; a dict value updates the entry of that name."""
    cfg = copy.deepcopy(SMALL)
    for key, value in changes.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) and isinstance(cfg.get(key), dict) else value
    return cfg


def made_batch(size: int = 4, *, history: int = 1, horizon: int = 2, seed: int = 0) -> dict[str, Any]:
    """Random windows of DATA with actions that depend on the state, last steps padded in every other row."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(size, history, 2)).astype(np.float32)
    steps = history - 1 + horizon
    action = np.repeat(state[:, -1:, :1], steps, axis=1) + np.zeros(3, np.float32)
    padded = np.zeros((size, steps), dtype=bool)
    padded[::2, -1] = horizon > 1
    return {
        "observation.images.top": rng.integers(0, 256, (size, history, 32, 32, 3), dtype=np.uint8),
        "observation.images.wrist": rng.integers(0, 256, (size, history, 16, 16, 3), dtype=np.uint8),
        "observation.state": state,
        "observation_is_pad": np.zeros((size, history), dtype=bool),
        "task": ["push the red cube", "stack the blue cube"] * (size // 2) + ["lift"] * (size % 2),
        "action": action.astype(np.float32),
        "action_is_pad": padded,
        "episode_index": np.arange(size),
        "frame_index": np.zeros(size, np.int64),
    }


def reference(case: str) -> dict[str, Any]:
    """Everything of one reference case: config, flat params, nested inputs, flat outputs."""
    from xp.models.tree import unflatten

    read = {part: dict(np.load(REFERENCE / f"{case}.{part}.npz")) for part in ("params", "inputs", "outputs")}
    config = json.loads((REFERENCE / f"{case}.model_config.json").read_text())
    return {"config": config, **read, "inputs": unflatten(read["inputs"])}
