"""A pi0 and a pi0.5 of almost no size, and batches for them."""

from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from xp.models import families
from xp.models.policy import DataSpec

CONF = Path(__file__).parents[3] / "conf/model"
DATA = DataSpec(
    cameras={"top": (48, 64, 3), "wrist": (48, 48, 3)}, action_dim=4, state_dim=5, fps=10.0, tasks=("pick up the cube",)
)


def config(name="pi05_tiny", **changed):
    return {**OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")), **changed}


def entry(size, seed=0):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=size).astype(np.float32), rng.uniform(0.5, 2, size).astype(np.float32)
    sides = {"min": -4, "p01": -2, "p99": 2, "max": 4}
    return {"mean": mean, "std": std, "mask": np.ones(size, bool), **{k: mean + v * std for k, v in sides.items()}}


def statistics(data=DATA):
    counts = {"num_transitions": 100, "num_trajectories": 3}
    return {"action": entry(data.action_dim), "proprio": entry(data.state_dim, 1), **counts}


def trainable(name="pi05_tiny", horizon=6, seed=0, data=DATA, pretrained=None, transforms=None, **changed):
    return families.build(
        config(name, **changed),
        data=data,
        statistics=statistics(data),
        horizon=horizon,
        seed=seed,
        pretrained_path=None if pretrained is None else str(pretrained),
        transforms=transforms,
    )


def batch(rows=3, horizon=6, seed=0, data=DATA):
    rng = np.random.default_rng(seed)
    pictures = {
        f"observation.images.{name}": rng.integers(0, 256, (rows, 1, *size), dtype=np.uint8)
        for name, size in data.cameras.items()
    }
    return {
        **pictures,
        "observation.state": rng.normal(size=(rows, 1, data.state_dim)).astype(np.float32),
        "observation_is_pad": np.zeros((rows, 1), bool),
        "action": rng.normal(size=(rows, horizon, data.action_dim)).astype(np.float32),
        "action_is_pad": np.zeros((rows, horizon), bool),
        "task": ["pick up the cube"] * rows,
        "episode_index": np.zeros(rows, np.int64),
        "frame_index": np.arange(rows, dtype=np.int64),
    }


def observation(rows=3, seed=0, data=DATA):
    return {name: value for name, value in batch(rows, seed=seed, data=data).items() if not name.startswith("action")}
