"""Training ACT: xp's torch loop against `lerobot-train` on one dataset, with the same model, batch and number of steps.

    python benchmarks/torch_training.py                        # 2 x 96 px video and 2 x 480 x 640 video
    python benchmarks/torch_training.py --only video96 --pairs 3 --steps 20
    python benchmarks/torch_training.py --only video96 --parts  # what channels-last memory and the fused optimiser give

Each side is a process of its own; the sides of a pair follow one another, and which is first alternates. LeRobot runs
its own `train()` with `num_workers=0` (its cheapest in CPU seconds; its workers decode in processes of their own). Per
step: CPU and wall-clock time between the ends of two updates, data included. `cold start` runs from the start of the
process to the end of the first update, imports included; `warm start` from the call of the training function, in a
process that has already trained once, as a worker of a sweep has. Waiting is the share of the steps' time in which xp's
loop waits for a batch.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import numpy as np

from loader import SETS, make_dataset

MODEL = {
    "dim_model": 64, "n_heads": 4, "dim_feedforward": 256, "n_encoder_layers": 2, "n_vae_encoder_layers": 2,
    "pretrained_backbone_weights": None,
}  # fmt: skip
CHUNK = 8
BATCH = {"video96": 8, "video480": 2}
BEGAN = time.monotonic()
PARTS = {"xp": "as it is", "xp-contiguous": "without channels-last", "xp-unfused": "without the fused optimiser"}
"""xp's loop, and the same without one of the two things that make it faster."""


def side_xp(root: Path, name: str, steps: int, part: str = "xp") -> dict:
    """Train with xp's loop, twice; what the second run took, and how long the first took to begin."""
    from omegaconf import OmegaConf

    import xp.training.torch.loop as loop
    from xp.data import Batches, Windows, compute_statistics, open_dataset, open_frames
    from xp.models import build
    from xp.models.policy import DataSpec
    from xp.models.trainable import TorchTrainable
    from xp.runs import Record, Run

    dataset = open_dataset(root)
    sizes = {camera: shape[:2] for camera, shape in dataset.cameras.items()}
    frames = open_frames(dataset, sizes, cache_dir=root.parent / "frames", cache_gb=20)
    episodes = list(range(dataset.episodes.num))
    statistics = compute_statistics(dataset, episodes)
    waited, begun = watch_waiting(loop), {}
    if part == "xp-unfused":
        do_not_fuse(loop)
    for attempt in range(2):
        (begin, begin_wall), cpu, wall, waited[:] = now(), [], [], [0.0]
        data = DataSpec(cameras=dataset.cameras, action_dim=6, state_dim=6, fps=dataset.fps)
        config = {"name": "act", "family": "lerobot", "type": "act", **MODEL}
        trainable = cast(TorchTrainable, build(config, data=data, statistics=statistics, horizon=CHUNK, seed=0))
        if part == "xp-contiguous":
            trainable = contiguous(trainable)
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
            trainer={
                "steps": steps, "log_every": 10, "checkpoint_every": None, "clip_norm": 10.0, "accelerator": "cpu",
            },
            lr={"schedule": "constant", "peak": 1e-5, "warmup_steps": 0, "end_factor": 1.0},
        )  # fmt: skip
        begun |= starts(attempt, begin, begin_wall, cpu, wall)
    return {**per_step(cpu, wall), **begun, "waiting": waited[0] / (wall[-1] - wall[0])}


def now() -> tuple[float, float]:
    """CPU seconds of this process, and wall-clock seconds."""
    return time.process_time(), time.monotonic()


def starts(attempt: int, begin: float, begin_wall: float, cpu: list, wall: list) -> dict[str, list[float]]:
    """(CPU, wall) seconds until the first update was made: of the process, or of a training after the first."""
    if attempt == 0:
        return {"cold": [cpu[0], wall[0] - BEGAN]}
    return {"warm": [cpu[0] - begin, wall[0] - begin_wall]}


def per_step(cpu: list, wall: list) -> dict[str, list[float]]:
    """Seconds between the ends of updates."""
    return {"cpu_per_step": np.diff(cpu).tolist(), "wall_per_step": np.diff(wall).tolist()}


def do_not_fuse(loop) -> None:
    """Let AdamW work through the weights one by one, as torch does where nothing else is asked."""
    fused = loop.make_optimiser

    def plain(*arguments):
        optimiser = fused(*arguments)
        for group in optimiser.param_groups:
            group["fused"] = False
        return optimiser

    loop.make_optimiser = plain


def contiguous(trainable):
    """The trainable with weights and images in torch's usual order of memory."""
    import torch

    move = trainable.module.to
    trainable.module.to = lambda device, memory_format=None: move(device)

    def prepare(batch):
        found = trainable.prepare(batch)
        return {key: value.contiguous() if isinstance(value, torch.Tensor) else value for key, value in found.items()}

    return dataclasses.replace(trainable, prepare=prepare)


def watch_waiting(loop) -> list[float]:
    """Count the seconds in which the loop waits for its next batch (but for the first two: nothing was there ahead)."""
    waited, parts = [0.0], loop.MicrobatchLoader

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

    loop.MicrobatchLoader = Watched
    return waited


def side_lerobot(root: Path, name: str, steps: int) -> dict:
    """Train with LeRobot's own function, twice; what the second run took, and how long the first took to begin."""
    import lerobot.scripts.lerobot_train as script
    from lerobot.configs.default import DatasetConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.policies.act.configuration_act import ACTConfig

    inner, begun = script.update_policy, {}
    for attempt in range(2):
        (begin, begin_wall), cpu, wall = now(), [], []

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
        begun |= starts(attempt, begin, begin_wall, cpu, wall)
    return {**per_step(cpu, wall), **begun, "waiting": None}


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
    parser.add_argument("--parts", action="store_true", help="xp alone, without one of its measures each")
    parser.add_argument("--side", choices=(*PARTS, "lerobot"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        given = (options.root, options.only, options.steps)
        found = side_lerobot(*given) if options.side == "lerobot" else side_xp(*given, options.side)
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    for name in [options.only] if options.only else list(BATCH):
        compare(name, options.pairs, options.steps, tuple(PARTS) if options.parts else ("xp", "lerobot"))


def compare(name: str, pairs: int, steps: int, sides: tuple[str, ...]) -> None:
    """Print one dataset's figures, and each other side's against the first's."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "dataset"
        make_dataset(root, {**SETS[name], "episodes": 3}, 40)
        found: dict[str, list[dict]] = {side: [] for side in sides}
        for pair in range(pairs):
            for side in sides if pair % 2 == 0 else sides[::-1]:
                found[side].append(measured(side, root, name, steps))
    print(f"{name}: ACT of 11.5 M parameters, batch {BATCH[name]}, {steps} steps, {pairs} pairs")
    for side, runs in found.items():
        cpu, wall = (np.concatenate([run[f"{kind}_per_step"] for run in runs]) for kind in ("cpu", "wall"))
        cold, warm = (np.min([run[kind] for run in runs], axis=0) for kind in ("cold", "warm"))
        print(
            f"  {side:13} CPU ms per step: least {1000 * cpu.min():.0f}, median {1000 * np.median(cpu):.0f}; wall "
            f"{1000 * np.median(wall):.0f}; samples per CPU second {BATCH[name] / cpu.min():.2f}, per second "
            f"{BATCH[name] / np.median(wall):.2f}\n"
            f"  {'':13} cold start {cold[0]:.1f} CPU s, {cold[1]:.1f} s; warm start {warm[0]:.2f} CPU s, "
            f"{warm[1]:.2f} s; peak {max(run['peak_mb'] for run in runs):.0f} MB"
        )
    for side in sides[1:]:
        texts = [_ratio(found["xp"], found[side], kind) for kind in ("cpu", "wall")]
        print(f"  samples per CPU second, xp / {side}: {texts[0]} in {pairs} pairs; per second {texts[1]}")
    print(f"  xp waits for batches during {max(run['waiting'] for run in found['xp']):.3%} of its steps' time")


def _ratio(ours: list[dict], theirs: list[dict], kind: str) -> str:
    """The median over pairs, and the range, of their time per step over ours (each the median of its steps)."""
    key = f"{kind}_per_step"
    ratios = [np.median(their[key]) / np.median(our[key]) for our, their in zip(ours, theirs)]
    return f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
