"""Fine-tuning pi0.5 on recorded episodes of the arm: 200 updates in JAX and in torch from the same weights."""

import jax
import numpy as np
import pytest
from omegaconf import OmegaConf
from pi0_made_up import config

import xp
from xp.data import Batches, Windows, compute_statistics, open_frames, split_episodes
from xp.data.dumps import draws
from xp.models import families
from xp.models.policy import DataSpec
from xp.runs import Record, Run
from xp.training import train_any

STEPS, FIRST, ROWS, HORIZON, SEEDS = 200, 20, 8, 4, (0, 1, 2)
WIDTH = 32
"""Of the model's actions, for which noise is drawn."""
TRAINER = {"steps": STEPS, "log_every": 1, "checkpoint_every": None, "clip_norm": 1.0}
LR = {"schedule": "linear_warmup", "peak": 1e-3, "warmup_steps": 20, "end_factor": 1.0}
CAMERAS = {"oblique": (32, 32), "wrist": (32, 32)}


class DrawnBatches(Batches):
    """Batches with the noise and the times of their losses, a function of seed and step."""

    def at(self, step):
        rng = np.random.default_rng([self.seed, step])
        noise = rng.standard_normal((ROWS, HORIZON, WIDTH), np.float32)
        return {**super().at(step), "noise": noise, "time": rng.uniform(0.001, 1, ROWS).astype(np.float32)}


@pytest.fixture(scope="module", autouse=True)
def compiled_well(quick_compilation):
    """Hundreds of updates: XLA's optimisations pay here."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """(dataset, frames, split): twelve expert episodes of two tasks, four of them held out."""
    folder = tmp_path_factory.mktemp("arm")
    xp.collect(
        folder / "dataset",
        {
            "env.tasks": ["red_to_target", "push_red"],
            "env.cameras": {name: list(size) for name, size in CAMERAS.items()},
        },
        {"collect.episodes": 6, "collect.workers": 1, "paths.cache": folder / "cache"},
        folder=folder / "collect",
        echo=False,
    )
    dataset = xp.open_dataset(folder / "dataset")
    frames = open_frames(dataset, CAMERAS, cache_dir=folder / "frames", cache_gb=1)
    return dataset, frames, split_episodes(dataset, val_fraction=1 / 3, seed=0)


def trained(folder, name, arm, seed):
    """(the loss of every update, the policy) of a run of the loop of the model's framework."""
    folder.mkdir()
    dataset, frames, split = arm
    spec = DataSpec(
        cameras=dataset.cameras,
        action_dim=dataset.action_dim,
        state_dim=dataset.state_dim,
        fps=dataset.fps,
        tasks=tuple(dataset.tasks),
    )
    statistics = compute_statistics(dataset, split.train)
    made = families.build(config(name), data=spec, statistics=statistics, horizon=HORIZON, seed=1)
    batches = DrawnBatches(
        Windows(dataset, frames, split.train, history=1, horizon=HORIZON), batch_size=ROWS, seed=seed
    )
    run = Run(folder, OmegaConf.create({}), Record(folder / "record.json", {}), should_stop=lambda: False, echo=False)
    policy = train_any(run, made, batches, validate=None, trainer=TRAINER, lr=LR, seed=seed)
    return [row["loss"] for row in run.training_log.rows()], policy


def validation_loss(policy, arm):
    """The mean over every fourth held-out window, of four draws each: the same for all policies."""
    dataset, frames, split = arm
    windows = Windows(dataset, frames, split.val, history=1, horizon=HORIZON)
    chosen = np.arange(0, len(windows), 4)
    fixed = draws(0, len(chosen), 4, 1, HORIZON, dataset.action_dim)
    parts = np.array_split(np.arange(len(chosen)), -(-len(chosen) // 32))
    found = [
        policy.loss({**windows.batch(chosen[part]), **{name: array[part] for name, array in fixed.items()}})["loss"]
        for part in parts
    ]
    return float(np.average(found, weights=[len(part) for part in parts]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_validation_losses_agree_within_their_spread_over_seeds(tmp_path, arm):
    found = {}
    for seed in SEEDS:
        one, first = trained(tmp_path / f"jax{seed}", "pi05_tiny", arm, seed)
        other, second = trained(tmp_path / f"torch{seed}", "pi05_torch_tiny", arm, seed)
        np.testing.assert_allclose(other[:FIRST], one[:FIRST], rtol=1e-4)
        assert len(one) == STEPS and np.mean(one[-FIRST:]) < 0.5 * np.mean(one[:FIRST])
        found[seed] = validation_loss(first, arm), validation_loss(second, arm)
    losses = np.array(list(found.values()))
    print("validation losses after 200 updates, a row for each seed, in JAX and torch:", losses.tolist())
    spread = np.sqrt(losses.var(axis=0, ddof=1).mean())
    one, other = losses.mean(axis=0)
    assert abs(one - other) < spread, found
