"""What Octo costs here: milliseconds per training step and per action, trace and compile time, and how much of the
machine's matrix-multiply peak the step reaches.

    python benchmarks/octo.py                     # octo_tiny and octo_small on 2 x 96 px, octo_small on 256 + 128 px
    python benchmarks/octo.py --only tiny_96 --batch-size 8

Each row is a process of its own (so that its peak memory is its own) with random weights. FLOPs are those XLA counts in
the compiled step; the peak is measured beside it with square float32 (on a GPU also bfloat16) products, so the ratio
compares what the model does with what the same machine does at its best in the same minute. Times are CPU time (all
threads), since wall time on a shared machine says little, and wall time on a GPU; of each the minimum over `--repeats`.
Memory is the most the process held (on a GPU: that device). Where a GPU is there, every row comes in bfloat16 as well.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process only looks whether a GPU is there

import jax
import jax.numpy as jnp
import numpy as np
from omegaconf import OmegaConf

from xp.config import compose
from xp.models import build
from xp.models.policy import DataSpec
from xp.models.trainable import JaxTrainable
from xp.models.tree import flatten
from xp.training.jax.runtime import keep_freed_memory
from xp.training.jax.step import initial_state, make_optimiser, make_step, seed_words
from xp.training.options import TrainerOptions
from xp.training.partition import split

ROWS = {
    "tiny_96": ("octo_tiny", (96, 96), (96, 96)),
    "small_96": ("octo_small", (96, 96), (96, 96)),
    "small_256": ("octo_small", (256, 256), (128, 128)),
}
ACTION, HORIZON = 7, 4
COLUMNS = (
    ("row", "{row}"),
    ("precision", "{precision}"),
    ("batch", "{batch}"),
    ("trace s", "{trace_s:.1f}"),
    ("compile s", "{compile_s:.1f}"),
    ("step ms", "{step_ms:.0f}"),
    ("GFLOP a step", "{gflop:.1f}"),
    ("GFLOP a second", "{gflops:.1f}"),
    ("of the matmul peak", "{share:.2f}"),
    ("action ms", "{action_ms:.1f}"),
    ("peak memory MB", "{memory_mb:.0f}"),
)


def main() -> None:
    """Measure every row in its own process and print a Markdown table."""
    arguments = _arguments()
    if arguments.row:
        print(json.dumps(_row(arguments)))
        return
    precisions = ["float32", "bfloat16"] if _has_gpu() else ["float32"]
    print("| " + " | ".join(name for name, _ in COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in arguments.only or ROWS:
        for precision in precisions:
            command = [sys.executable, __file__, f"--row={row}", f"--precision={precision}"]
            command += [f"--batch-size={arguments.batch_size}", f"--repeats={arguments.repeats}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print("| " + " | ".join(form.format(**found) for _, form in COLUMNS) + " |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ROWS, action="append", help="this row only; may be given again")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="float32", help=argparse.SUPPRESS)
    return parser.parse_args()


def _has_gpu() -> bool:
    return jax.default_backend() == "gpu"


def _row(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()  # as a training does
    trainable, batch = _model(arguments.row), _batch(arguments.row, arguments.batch_size)
    step, found = _training(trainable, batch, arguments.precision)
    seconds = _fastest(step, arguments.repeats)
    peak = _matmul_peak(arguments.precision, arguments.repeats)
    return {
        "row": arguments.row,
        "precision": arguments.precision,
        "batch": arguments.batch_size,
        **found,
        "step_ms": 1e3 * seconds,
        "gflops": found["gflop"] / seconds,
        "share": found["gflop"] / seconds / peak,
        "action_ms": 1e3 * _action(trainable, batch, arguments.precision, arguments.repeats),
        "memory_mb": _peak_memory() / 1e6,
    }


def _model(row: str) -> JaxTrainable:
    name, primary, wrist = ROWS[row]
    sizes = [f"model.cameras.primary.size={list(primary)}", f"model.cameras.wrist.size={list(wrist)}"]
    cfg = cast(dict[str, Any], OmegaConf.to_container(compose([f"model={name}", *sizes]).model, resolve=True))
    data = DataSpec(cameras={"top": (*primary, 3), "wrist": (*wrist, 3)}, action_dim=ACTION, state_dim=ACTION, fps=10.0)
    unit = {"mean": [0.0] * ACTION, "std": [1.0] * ACTION}
    return build(cfg, data=data, statistics={"action": unit, "proprio": unit}, horizon=HORIZON, seed=0)


def _batch(row: str, size: int) -> dict[str, Any]:
    """Inputs in Octo's own form, so that no tokenizer is needed."""
    name, primary, wrist = ROWS[row]
    rng = np.random.default_rng(0)
    ids = (size, 16) if name != "octo_tiny" else (size, 12, 2)
    observation = {
        "image_primary": rng.integers(0, 256, (size, 1, *primary, 3), dtype=np.uint8),
        "image_wrist": rng.integers(0, 256, (size, 1, *wrist, 3), dtype=np.uint8),
        "timestep_pad_mask": np.ones((size, 1), dtype=bool),
    }
    if name == "octo_tiny":
        observation["proprio"] = rng.normal(size=(size, 1, ACTION)).astype(np.float32)
    words = {"input_ids": rng.integers(1, 500, ids).astype(np.int32), "attention_mask": np.ones(ids[:2], np.int32)}
    action = rng.normal(size=(size, 1, HORIZON, ACTION)).astype(np.float32)
    return {
        "observation": observation,
        "task": {"language_instruction": words},
        "action": action,
        "action_pad_mask": np.ones(action.shape, dtype=bool),
    }


def _training(trainable: JaxTrainable, batch: dict[str, Any], precision: str) -> tuple[Callable[[], Any], dict]:
    """The compiled step of the training loop as a function of nothing, and what making it cost."""
    options = TrainerOptions.read({"steps": 1, "clip_norm": 1.0, "precision": precision})
    partition = split(flatten(trainable.weights), model_frozen=trainable.frozen)
    optimiser = make_optimiser(options, partition)
    state, frozen = initial_state(partition, optimiser, options), jax.device_put(partition.frozen)
    inputs = jax.device_put(trainable.prepare(batch))
    rest = (frozen, inputs, seed_words(0), np.uint32(0), np.float32(1e-4), np.bool_(False))
    start = _now()
    lowered = make_step(trainable.loss, optimiser, options).lower(state, *rest)
    traced = _now()
    compiled = lowered.compile()
    ended = _now()
    held = {"state": state}

    def step() -> Any:
        held["state"], outcome = compiled(held["state"], *rest)
        return outcome

    flops = cast(dict[str, float], compiled.cost_analysis())["flops"]
    return step, {"trace_s": traced - start, "compile_s": ended - traced, "gflop": flops / 1e9}


def _action(trainable: JaxTrainable, batch: dict[str, Any], precision: str, repeats: int) -> float:
    """Seconds for one observation's chunk, from numpy to numpy."""
    kind = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    policy = trainable.policy(jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), trainable.weights))
    one = jax.tree.map(lambda leaf: leaf[:1], {name: batch[name] for name in ("observation", "task")})
    return _fastest(lambda: policy.predict(one), repeats)


def _matmul_peak(precision: str, repeats: int, size: int = 2048) -> float:
    """GFLOP/s of square products: the most this machine gives in this minute."""
    kind = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    size = 8 * size if _has_gpu() else size
    one = jnp.ones((size, size), kind)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / 1e9 / _fastest(lambda: product(one, one), repeats)


def _fastest(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest call, after one that warms up."""
    jax.block_until_ready(call())
    found = []
    for _ in range(repeats):
        start = _now()
        jax.block_until_ready(call())
        found.append(_now() - start)
    return min(found)


def _now() -> float:
    """Seconds on the clock that counts here: the process's CPU time, or wall time where a GPU does the work."""
    return time.perf_counter() if _has_gpu() else time.process_time()


def _peak_memory() -> int:
    """Bytes: the device's own count on a GPU, else the most this process has held."""
    if _has_gpu():
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
