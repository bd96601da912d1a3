"""Training ACT: xp's torch loop against `lerobot-train` on one dataset, with the same model, batch and number of steps.

    python benchmarks/torch_training.py                        # 2 x 96 px video and 2 x 480 x 640 video
    python benchmarks/torch_training.py --only video96 --pairs 3 --steps 20

Each side is a process of its own; the sides of a pair follow one another, and which is first alternates. LeRobot runs
its own `train()` with `num_workers=0` (its cheapest in CPU seconds; its workers decode in processes of their own). Per
step: the process's CPU time between the ends of two updates, data included; the least of all steps is compared, and the
median shown, since other load on the machine only adds. `first step` is CPU time from the call of the training function
in a process that has already trained once, as a warm worker of a sweep has; `waiting` is the share of the time of the
steps in which xp's loop waits for a batch.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from loader import SETS, make_dataset

MODEL = {
    "dim_model": 64, "n_heads": 4, "dim_feedforward": 256, "n_encoder_layers": 2, "n_vae_encoder_layers": 2,
    "pretrained_backbone_weights": None,
}  # fmt: skip
CHUNK = 8
BATCH = {"video96": 8, "video480": 2}


def side_xp(root: Path, name: str, steps: int) -> dict:
    """Train with xp's loop, twice; what the second run took."""
    from omegaconf import OmegaConf

    import xp.training.torch_loop as loop
    from xp.data import Batches, Windows, compute_statistics, open_dataset, open_frames
    from xp.models import build
    from xp.models.policy import DataSpec
    from xp.runs import Record, Run

    dataset = open_dataset(root)
    sizes = {camera: shape[:2] for camera, shape in dataset.cameras.items()}
    frames = open_frames(dataset, sizes, cache_dir=root.parent / "frames", cache_gb=20)
    episodes = list(range(dataset.episodes.num))
    statistics = compute_statistics(dataset, episodes)
    waited = watch_waiting(loop)
    for attempt in range(2):
        begin, cpu, wall, waited[:] = time.process_time(), [], [], [0.0]
        data = DataSpec(cameras=dataset.cameras, action_dim=6, state_dim=6, fps=dataset.fps)
        config = {"name": "act", "family": "lerobot", "type": "act", **MODEL}
        trainable = build(config, data=data, statistics=statistics, horizon=CHUNK, seed=0)
        windows = Windows(dataset, frames, episodes, history=1, horizon=CHUNK)
        folder = root.parent / f"run{attempt}"
        folder.mkdir()

        def after_step(cpu: list = cpu, wall: list = wall) -> bool:
            cpu.append(time.process_time())
            wall.append(time.monotonic())
            return False

        run = Run(folder, OmegaConf.create({}), Record(folder / "record.json", {}), should_stop=after_step, echo=False)
        loop.train(
            run, trainable, Batches(windows, batch_size=BATCH[name], seed=0), validate=None, seed=0,
            trainer={"steps": steps, "log_every": 10, "checkpoint_every": None, "clip_norm": 10.0, "device": "cpu"},
            lr={"schedule": "constant", "peak": 1e-5, "warmup_steps": 0, "end_factor": 1.0},
        )  # fmt: skip
    return {
        "cpu_per_step": np.diff(cpu).tolist(), "wall_per_step": np.diff(wall).tolist(), "first_step": cpu[0] - begin,
        "waiting": waited[0] / (wall[-1] - wall[0]),
    }  # fmt: skip


def watch_waiting(loop) -> list[float]:
    """Count the seconds in which the loop waits for its next batch (but for the first two: nothing was there ahead)."""
    waited, parts = [0.0], loop.Parts

    class Watched(parts):
        def __iter__(self):
            inner, number = super().__iter__(), 0
            while True:
                begin = time.monotonic()
                try:
                    item = next(inner)
                except StopIteration:
                    return
                number += 1
                waited[0] += time.monotonic() - begin if number > 2 else 0.0
                yield item

    loop.Parts = Watched
    return waited


def side_lerobot(root: Path, name: str, steps: int) -> dict:
    """Train with LeRobot's own function, twice; what the second run took."""
    import lerobot.scripts.lerobot_train as script
    from lerobot.configs.default import DatasetConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.policies.act.configuration_act import ACTConfig

    inner = script.update_policy
    for attempt in range(2):
        begin, cpu, wall = time.process_time(), [], []

        def noted(*arguments, cpu=cpu, wall=wall, **options):
            found = inner(*arguments, **options)
            cpu.append(time.process_time())
            wall.append(time.monotonic())
            return found

        script.update_policy = noted
        policy = ACTConfig(chunk_size=CHUNK, n_action_steps=CHUNK, device="cpu", push_to_hub=False, **MODEL)
        config = TrainPipelineConfig(
            dataset=DatasetConfig(repo_id="local/made_up", root=str(root)), policy=policy, batch_size=BATCH[name],
            steps=steps, num_workers=0, save_checkpoint=False, eval_steps=0, log_freq=10, seed=0,
            output_dir=root.parent / f"lerobot{attempt}",
        )  # fmt: skip
        sys.argv = [sys.argv[0]]
        getattr(script.train, "__wrapped__", script.train)(config)
    return {
        "cpu_per_step": np.diff(cpu).tolist(), "wall_per_step": np.diff(wall).tolist(), "first_step": cpu[0] - begin,
        "waiting": None,
    }  # fmt: skip


def measured(side: str, root: Path, name: str, steps: int) -> dict:
    """Run one side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(root)
        command = [sys.executable, __file__, "--side", side, "--root", f"{folder}/data", "--only", name]
        done = subprocess.run(
            [*command, "--steps", str(steps)], capture_output=True, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(BATCH))
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", choices=("xp", "lerobot"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        found = {"xp": side_xp, "lerobot": side_lerobot}[options.side](options.root, options.only, options.steps)
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    for name in [options.only] if options.only else list(BATCH):
        compare(name, options.pairs, options.steps)


def compare(name: str, pairs: int, steps: int) -> None:
    """Print one dataset's figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "dataset"
        make_dataset(root, {**SETS[name], "episodes": 3}, 40)
        found: dict[str, list[dict]] = {"xp": [], "lerobot": []}
        for pair in range(pairs):
            for side in ("xp", "lerobot") if pair % 2 == 0 else ("lerobot", "xp"):
                found[side].append(measured(side, root, name, steps))
    print(f"{name}: ACT of 11.5 M parameters, batch {BATCH[name]}, {steps} steps, {pairs} pairs")
    least = {}
    for side, runs in found.items():
        cpu = np.concatenate([run["cpu_per_step"] for run in runs])
        least[side] = cpu.min()
        print(
            f"  {side:8} CPU ms per step: least {1000 * cpu.min():.0f}, median {1000 * np.median(cpu):.0f}; "
            f"{BATCH[name] / cpu.min():.2f} samples per CPU second; "
            f"first step {min(run['first_step'] for run in runs):.2f} CPU s; "
            f"peak {max(run['peak_mb'] for run in runs):.0f} MB"
        )
    waits = [run["waiting"] for run in found["xp"]]
    print(
        f"  samples per CPU second, xp / lerobot-train: {least['lerobot'] / least['xp']:.2f}; waiting {max(waits):.2%}"
    )


if __name__ == "__main__":
    main()
