"""What an iteration of a search for mixing weights costs, against what it cannot do without.

    python benchmarks/merge_search.py [--windows 32] [--repeats 5]

An iteration mixes N = 3 checkpoints, takes the loss and its gradient at the mix over all windows, and projects the
gradient on the checkpoints: two passes over them. The limit is one forward and backward pass over the same windows, at
weights that are in place, and one pass over the checkpoints (their mix). Random weights and windows; CPU seconds of all
threads, in pairs, the median. Memory is the most the process held while searching beyond what it held before, in
copies of the weights.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from xp.checkpoints.open import open_checkpoint
from xp.config import compose
from xp.data.dumps import Dump, draws
from xp.data.statistics import describe
from xp.merging.candidate_evaluator import CandidateEvaluator
from xp.merging.groups import make_units
from xp.models import build
from xp.models.policy import DataSpec
from xp.training.frameworks import policy_loss

ROWS = {"act": (["model=act"], 96), "octo_tiny": (["model=octo_tiny"], 96)}
HORIZON, SIZES, COUNT = 8, {"action_dim": 6, "state_dim": 6}, 3


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=ROWS, action="append")
    asked = parser.parse_args()
    print("| model | weights, MB | memory | forward, backward | one pass | an iteration | iteration / limit | copies |")
    print("|---|---|---|---|---|---|---|---|")
    for row in asked.only or ROWS:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            measure(row, Path(folder), asked.windows, asked.repeats)


def measure(row: str, folder: Path, windows: int, repeats: int) -> None:
    """Make the checkpoints, and print a line for each place where a search may keep them."""
    policy = None
    for seed in range(COUNT):
        policy = made_policy(row, seed)
        policy.save(folder / str(seed))
    objective = policy_loss(policy, made_dump(folder, windows, ROWS[row][1]))
    for memory in ("stream", "ram"):
        line(row, folder, memory, objective, dict(policy.weights()), repeats)


def line(row: str, folder: Path, memory: str, objective: Any, weights: dict[str, np.ndarray], repeats: int) -> None:
    """The parts of an iteration one by one, and the whole, in turns."""
    readers = [open_checkpoint(folder / str(seed)).reader for seed in range(COUNT)]
    leaves = dict(readers[0].leaves)
    size = sum(leaf.nbytes for leaf in leaves.values())
    shares = np.full((1, COUNT), 1 / COUNT)
    objective.loss_and_gradient(weights)  # compiled, and grown to its size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    evaluator = CandidateEvaluator(readers, leaves, make_units(leaves, "checkpoint", {}), objective, memory)
    evaluator.loss_and_slopes(shares)
    held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / size
    placed = evaluator._shaped()
    found = [
        (
            seconds(lambda: objective.loss_and_gradient(placed)),
            seconds(lambda: evaluator._fill(shares)),
            seconds(lambda: evaluator.loss_and_slopes(shares)),
        )
        for _ in range(repeats)
    ]
    alone, once, whole = (median(column) for column in zip(*found))
    ratio = sorted(each[2] / (each[0] + each[1]) for each in found)
    print(
        f"| {row} | {size / 1e6:.0f} | {memory} | {alone:.2f} s | {once:.3f} s | {whole:.2f} s | "
        f"{median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f}) | {held:.1f} |",
        flush=True,
    )


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of all threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def made_policy(row: str, seed: int) -> Any:
    """A policy with random weights."""
    overrides, size = ROWS[row]
    config = OmegaConf.to_container(compose(overrides).model, resolve=True)
    rng = np.random.default_rng(0)
    numbers = {name: describe(rng.normal(size=(50, 6)).astype(np.float32)) for name in ("action", "proprio")}
    data = DataSpec(cameras={"top": (size, size, 3)}, fps=10, tasks=("go",), **SIZES)
    statistics = {**numbers, "num_transitions": 50, "num_trajectories": 5}
    trainable: Any = build(config, data=data, statistics=statistics, horizon=HORIZON, seed=seed)  # type: ignore[arg-type]
    return trainable.policy(getattr(trainable, "weights", None))


def made_dump(folder: Path, windows: int, size: int) -> Dump:
    """Random windows with one fixed draw each."""
    rng = np.random.default_rng(1)
    arrays = {
        "observation.images.top": rng.integers(0, 255, (windows, 1, size, size, 3), np.uint8),
        "observation.state": rng.normal(size=(windows, 1, 6)).astype(np.float32),
        "observation_is_pad": np.zeros((windows, 1), bool),
        "action": rng.normal(size=(windows, HORIZON, 6)).astype(np.float32),
        "action_is_pad": np.zeros((windows, HORIZON), bool),
        "episode_index": np.arange(windows) // 4,
        "frame_index": np.arange(windows) % 4,
        "task_index": np.zeros(windows, np.int64),
        **draws(0, windows, 1, 1, HORIZON, 6),
    }
    return Dump(folder / "made-up.npz", arrays, ("go",), {"seed": 3})


if __name__ == "__main__":
    main()
