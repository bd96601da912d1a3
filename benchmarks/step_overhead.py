"""What training through xp costs over a bare loop of the same compiled step on the same batches.

    python benchmarks/step_overhead.py                    # octo_tiny, 96 and 64 px cameras: target <= 1.03
    python benchmarks/step_overhead.py --model=mlp        # a model that costs next to nothing: xp's own cost per step

Both sides build every batch from the same windows, prepare it, run the same jitted and donated step, and read the loss
every `--log-every` steps. xp also builds ahead in a thread, checks every loss and gradient, logs, shows progress and
asks whether to stop. Sides alternate within each pair. The steps before the first log row, which compile, are left out;
checkpoints and validation are off. CPU seconds of the whole process (all threads) decide, since wall time on a shared
machine does not.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from omegaconf import OmegaConf

from xp.data.batches import Batches
from xp.data.dataset import Episodes
from xp.data.lerobot.info import CameraInfo, DatasetInfo
from xp.data.lerobot.reader import LeRobotDataset
from xp.data.windows import Windows
from xp.models.policy import DataSpec, PolicySpec
from xp.models.trainable import JaxTrainable
from xp.models.tree import flatten
from xp.runs import Record, Run
from xp.training.jax.loop import train
from xp.training.jax.runtime import prepare_jax
from xp.training.jax.step import initial_state, make_optimiser, make_step, seed_words
from xp.training.options import TrainerOptions
from xp.training.partition import split

SIZES = {"top": (96, 96), "wrist": (64, 64)}
EPISODES, LENGTH, ACTION, HORIZON = 40, 50, 6, 4
LR = {"schedule": "constant", "peak": 1e-4}


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        prepare_jax(Path(folder) / "jax")
        dataset, frames = _dataset()
        trainable = _octo(dataset) if arguments.model == "octo_tiny" else _mlp()
        windows = Windows(dataset, frames, range(EPISODES), history=1, horizon=HORIZON)
        batches = Batches(windows, batch_size=arguments.batch_size, seed=0)
        options = {"steps": arguments.log_every + arguments.steps, "log_every": arguments.log_every}
        pairs = []
        for number in range(arguments.pairs):
            sides = [("bare", lambda: _bare(trainable, batches, options))]
            sides.append(("xp", lambda n=number: _xp(Path(folder) / f"run{n}", trainable, batches, options)))
            pairs.append({name: measure() for name, measure in (sides if number % 2 == 0 else reversed(sides))})
            print(f"pair {number + 1}: " + _line(pairs[-1]), flush=True)
    _report(arguments, pairs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("octo_tiny", "mlp"), default="octo_tiny")
    parser.add_argument("--steps", type=int, default=50, help="measured steps per side and pair")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--log-every", type=int, default=10, help="steps per row of training_log.csv; the first go unmeasured"
    )
    return parser.parse_args()


class Clock:
    """CPU seconds (process, all threads) and wall seconds per step, from the first log row to the last step."""

    def __init__(self, steps: int):
        self._steps, self._start = steps, (0.0, 0.0)

    def start(self) -> None:
        """Start counting."""
        self._start = (time.process_time(), time.perf_counter())

    def stop(self) -> tuple[float, float]:
        """Seconds per step since the start: (CPU, wall)."""
        cpu, wall = time.process_time() - self._start[0], time.perf_counter() - self._start[1]
        return cpu / self._steps, wall / self._steps


def _bare(trainable: JaxTrainable, batches: Batches, given: dict[str, Any]) -> tuple[float, float]:
    """A loop of the compiled step and nothing else."""
    options = TrainerOptions.read(given)
    partition = split(flatten(trainable.weights), model_frozen=trainable.frozen)
    optimiser = make_optimiser(options, partition)
    state, frozen = initial_state(partition, optimiser, options), jax.device_put(partition.frozen)
    step = make_step(trainable.loss, optimiser, options)
    clock = Clock(options.steps - options.log_every)
    seed, rate, fresh = seed_words(0), np.float32(LR["peak"]), np.bool_(False)
    for index in range(options.steps):
        if index == options.log_every:
            jax.block_until_ready(state)
            clock.start()
        inputs = trainable.prepare(batches.at(index))
        state, outcome = step(state, frozen, inputs, seed, np.uint32(index), rate, fresh)
        if (index + 1) % options.log_every == 0:
            float(outcome.loss)
    jax.block_until_ready(state)
    return clock.stop()


def _xp(folder: Path, trainable: JaxTrainable, batches: Batches, options: dict[str, Any]) -> tuple[float, float]:
    """The same through `xp.training.train`, the clock driven by the questions whether to stop (one per step).

    At a row of the log nothing is left on its way to the device, so the clock starts and stops with no step in flight.
    """
    folder.mkdir()
    first, last = options["log_every"], options["steps"]
    clock, steps, measured = Clock(last - first), iter(range(1, last + 1)), []

    def should_stop() -> bool:
        step = next(steps)
        if step == first:
            clock.start()
        elif step == last:
            measured.append(clock.stop())
        return False

    run = Run(folder, OmegaConf.create({}), Record(folder / "record.json", {}), should_stop=should_stop, echo=False)
    run.log = lambda message: None  # type: ignore[method-assign]
    train(run, trainable, batches, validate=None, trainer=options, lr=LR, seed=0)
    return measured[0]


def _dataset() -> tuple[LeRobotDataset, dict[str, np.ndarray]]:
    """A made-up dataset in memory: two cameras, six joints."""
    rng, n = np.random.default_rng(0), EPISODES * LENGTH
    joints = tuple(f"joint_{i}" for i in range(ACTION))
    streams = {
        name: CameraInfo(name=name, key=f"observation.images.{name}", height=h, width=w, is_video=False)
        for name, (h, w) in SIZES.items()
    }
    info = DatasetInfo(
        root=Path("made-up"), fps=10.0, streams=streams, action_names=joints, state_names=joints,
        environment_state_names=(), num_episodes=EPISODES, num_frames=n, robot_type="", codebase_version="v3.0",
        data_path="", video_path="",
    )  # fmt: skip
    info.__dict__["tasks"] = ["put the red cube on the target"]
    starts, episode = np.arange(EPISODES) * LENGTH, np.repeat(np.arange(EPISODES), LENGTH)
    zeros = np.zeros(EPISODES, np.int64)
    dataset = LeRobotDataset(
        info=info, decoder="auto",
        episodes=Episodes(starts, np.full(EPISODES, LENGTH), zeros, ("put the red cube on the target",)),
        action=rng.normal(size=(n, ACTION)).astype(np.float32), state=rng.normal(size=(n, ACTION)).astype(np.float32),
        environment_state=np.zeros((n, 0), np.float32),
        episode_index=episode, frame_index=np.arange(n) - starts[episode], task_index=np.zeros(n, np.int64),
        data_files=(), videos={},
    )  # fmt: skip
    frames = {name: rng.integers(0, 256, (n, h, w, 3), dtype=np.uint8) for name, (h, w) in SIZES.items()}
    return dataset, frames


def _octo(dataset: LeRobotDataset) -> JaxTrainable:
    from xp.config import compose
    from xp.data import compute_statistics
    from xp.models import build

    model = cast(dict[str, Any], OmegaConf.to_container(compose(["model=octo_tiny"]).model, resolve=True))
    spec = DataSpec(cameras=dataset.cameras, action_dim=ACTION, state_dim=ACTION, fps=dataset.fps, tasks=dataset.tasks)
    found = compute_statistics(dataset, range(EPISODES))
    trainable = build(model, data=spec, statistics=found, horizon=HORIZON, seed=0, pretrained_path=None)
    return cast(JaxTrainable, trainable)


class _Unsaved:
    """Stands for a policy where saving must not be measured."""

    def __init__(self, weights: Any):
        del weights

    def save(self, folder: Path) -> None:
        """Write a mark only."""
        (folder / "policy").write_text("")


def _mlp() -> JaxTrainable:
    """A small perceptron on the state: the step costs next to nothing, so xp's own cost stands out."""
    rng = np.random.default_rng(0)
    weights = {
        "in": {"kernel": rng.normal(size=(ACTION, 64)).astype(np.float32) / 8},
        "out": {"kernel": rng.normal(size=(64, HORIZON * ACTION)).astype(np.float32) / 8},
    }

    def loss(weights: Any, inputs: Any, key: Any, train: bool) -> tuple[Any, dict[str, Any]]:
        out = jnp.tanh(inputs["state"] @ weights["in"]["kernel"]) @ weights["out"]["kernel"]
        return jnp.mean((out - inputs["action"]) ** 2), {}

    def prepare(batch: Any) -> dict[str, np.ndarray]:
        action = batch["action"]
        return {"state": batch["observation.state"][:, -1], "action": action.reshape(len(action), -1)}

    spec = PolicySpec(horizon=HORIZON, action_dim=ACTION, state_dim=ACTION, cameras={})
    return JaxTrainable(spec=spec, weights=weights, loss=loss, prepare=prepare, policy=cast(Any, _Unsaved))


def _line(pair: dict[str, tuple[float, float]]) -> str:
    (bare, bare_wall), (ours, ours_wall) = pair["bare"], pair["xp"]
    return (
        f"bare {1e3 * bare:.2f} CPU-ms/step, xp {1e3 * ours:.2f} CPU-ms/step, ratio {ours / bare:.4f} "
        f"(wall: {1e3 * bare_wall:.2f} and {1e3 * ours_wall:.2f} ms)"
    )


def _report(arguments: argparse.Namespace, pairs: list[dict[str, tuple[float, float]]]) -> None:
    ratios = sorted(pair["xp"][0] / pair["bare"][0] for pair in pairs)
    walls = sorted(pair["xp"][1] / pair["bare"][1] for pair in pairs)
    extra = sorted(1e3 * (pair["xp"][0] - pair["bare"][0]) for pair in pairs)
    print(
        f"\n{arguments.model}, batch {arguments.batch_size}, {len(pairs)} pairs of {arguments.steps} steps, "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
    )
    for name, values, unit in (
        ("CPU ratio xp/bare", ratios, ""),
        ("wall ratio xp/bare", walls, ""),
        ("extra", extra, " CPU-ms/step"),
    ):
        print(f"{name}: median {statistics.median(values):.4f}{unit} (from {values[0]:.4f} to {values[-1]:.4f})")


if __name__ == "__main__":
    main()
