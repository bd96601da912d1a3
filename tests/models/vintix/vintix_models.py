"""Vintix models for tests: the reference's, and small new ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from xp.foreign.statistics import DatasetStatistics
from xp.models import build, load_policy
from xp.models.policy import DataSpec, GroupSpec

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "vintix"
WIDTHS = {"arm": (7, 3), "leg": (11, 4)}
STATES, ACTIONS, CONTEXT = 11, 4, 32
SIZES = {
    "context_len": 8, "observation_emb_dim": 7, "action_emb_dim": 7, "reward_emb_dim": 2, "transformer_depth": 2,
    "transformer_heads": 2, "intermediate_size": 16,
}  # fmt: skip


def reference(relative: str) -> Path:
    if not (REFERENCE / relative).exists():
        pytest.skip(f"the reference arrays are not here: {REFERENCE / relative}")
    return REFERENCE / relative


def padded(values: np.ndarray, width: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def reference_batch(io) -> dict:
    """The batch of io.npz as windows: a first step that only gives action and reward, then the 32 steps."""
    parts = {"observation.state": [], "action": [], "reward": [], "step": [], "task": []}
    for number in range(4):
        own = {key: io[f"batch/{number}/{key}"] for key in ("observation", "prev_action", "action", "prev_reward")}
        state = padded(own["observation"], STATES)
        parts["observation.state"].append(np.concatenate([state[:1], state]))
        action = np.concatenate([own["prev_action"][:1], own["action"]])
        np.testing.assert_array_equal(action[1:-1], own["prev_action"][1:])
        parts["action"].append(padded(action, ACTIONS))
        parts["reward"].append(np.append(own["prev_reward"][:, 0], 0))
        step = io[f"batch/{number}/step_num"].astype(np.int64)
        parts["step"].append(np.append(-1, step))
        parts["task"].append(str(io[f"batch/{number}/task_name"]))
    return {key: value if key == "task" else np.stack(value) for key, value in parts.items()}


def original(origin="upstream", device="cpu", folder="dunno"):
    return load_policy(reference(f"{folder}/0000_epoch"), device=device, origin=origin)


def describe(rows: np.ndarray) -> dict[str, np.ndarray]:
    std = rows.std(0)
    return {"mean": rows.mean(0), "std": std, "mask": std > 0}


def data_spec(groups=("go1", "go2"), widths=(5, 2), reward_scale=1.0) -> DataSpec:
    specs = [
        GroupSpec(name=n, state_dim=widths[0], action_dim=widths[1], parameter_group=n, reward_scale=reward_scale)
        for n in groups
    ]
    return DataSpec(cameras={}, state_dim=widths[0], action_dim=widths[1], fps=50, tasks=groups, groups=specs)


def statistics_of(groups=("go1", "go2"), widths=(5, 2)) -> DatasetStatistics:
    draw = np.random.default_rng(0)
    found = {}
    for name in groups:
        own = {
            key: describe(draw.normal(size=(50, width)).astype(np.float32))
            for key, width in zip(("proprio", "action"), widths)
        }
        found[name] = {**own, "num_transitions": 50, "num_trajectories": 1}
    return {**{key: found[groups[0]][key] for key in ("action", "proprio")}, "num_transitions": 50, "groups": found}


def new(seed=0, groups=("go1", "go2"), widths=(5, 2), pretrained_path=None, **options):
    section = {"family": "vintix", **({} if pretrained_path else SIZES), **options}
    return build(
        section, data=data_spec(groups, widths), statistics=statistics_of(groups, widths), horizon=1, seed=seed,
        pretrained_path=None if pretrained_path is None else str(pretrained_path),
    )  # fmt: skip


def windows(rows=3, steps=9, widths=(5, 2), seed=0, groups=2) -> dict:
    draw = np.random.default_rng(seed)
    step = np.tile(np.arange(steps) % 5, (rows, 1))
    return {
        "observation.state": draw.normal(size=(rows, steps, widths[0])).astype(np.float32),
        "action": draw.normal(size=(rows, steps, widths[1])).astype(np.float32),
        "action_is_pad": np.zeros((rows, steps), bool),
        "reward": draw.normal(size=(rows, steps)).astype(np.float32),
        "step": step,
        "group_index": np.arange(rows) % groups,
        "task": [("go1", "go2")[row % groups] for row in range(rows)],
    }


def moved(module: torch.nn.Module, seed=1) -> None:
    """Other weights than the initial ones, whose biases are 0."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
