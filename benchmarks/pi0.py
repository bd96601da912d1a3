"""What pi0.5 costs here: milliseconds per action, with and without kept keys, and per training step, in JAX and torch.

    python benchmarks/pi0.py                        # tiny and middle
    python benchmarks/pi0.py --only tiny --repeats 3
    python benchmarks/pi0.py --memory               # a table of what training and acting hold at the real size

Each row is a process of its own, with random weights and the same sizes in both frameworks; torch runs LeRobot's pi05.
FLOPs are those of all products in the program of the JAX step, a loop's as often as it runs (XLA's own count takes a
loop once); the peak is measured beside it with square float32 products in the same framework. Times are CPU time (all
threads), since wall time on a shared machine says little, and wall time on a GPU; of each the minimum over `--repeats`.
Memory is the most the process held (on a GPU: that device).

The memory table is reckoned from the shapes of the weights: what is trained has its float32 value, gradient, two
moments and a moving average; what is frozen has bfloat16, or 4 bits and a float32 scale for each 64 numbers.
Activations are not in it. `--check` compares the reckoning with the arrays that a training of `middle` really holds.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import numpy as np

from xp.models.pi0.network.sizes import EXPERTS, VISIONS, ExpertSizes, Sizes, VisionSizes

SIZES = {
    "tiny": Sizes(vision=VISIONS["tiny"], language=EXPERTS["dummy"], action=EXPERTS["dummy"], vocabulary=1024),
    "middle": Sizes(
        vision=VisionSizes(width=192, depth=6, mlp=768, heads=6),
        language=ExpertSizes(width=256, depth=6, mlp=1024, head_dim=32),
        action=ExpertSizes(width=128, depth=6, mlp=512, head_dim=32),
        vocabulary=8192,
    ),
}
"""Of pi0.5; `middle` sees 224 pixels, as the real one."""
HORIZON, WORDS = 10, 64
COLUMNS = (
    ("size", "{size}"), ("framework", "{framework}"), ("M parameters", "{parameters:.2f}"),
    ("step ms", "{step_ms:.0f}"),
    ("GFLOP a step", "{gflop:.2f}"), ("of the matmul peak", "{share:.2f}"), ("action ms", "{action_ms:.1f}"),
    ("without kept keys", "{uncached_ms:.1f}"), ("peak memory MB", "{memory_mb:.0f}"),
)  # fmt: skip
FLOAT32, BFLOAT16, FOUR_BITS = 4.0, 2.0, 0.5 + 4 / 64
"""Bytes of a number; in 4 bits with a float32 scale for each 64 of them."""
WAYS = (("all", "", 0.0), ("low rank", "_lora", BFLOAT16), ("low rank, base in 4 bits", "_lora", FOUR_BITS))
"""(what is trained, suffix of the variants, bytes of a frozen number)."""
TRAINED = 5 * FLOAT32
"""Value, gradient, two moments of Adam, moving average."""


def main() -> None:
    """Measure every row in its own process and print a Markdown table."""
    arguments = _arguments()
    if arguments.memory:
        print(memory_table(check=arguments.check))
        return
    if arguments.row:
        size, framework = arguments.row.split("/")
        row = {"jax": _jax_row, "torch": _torch_row}[framework](SIZES[size], arguments.repeats, arguments.batch_size)
        print(json.dumps({"size": size, "framework": framework, **row}))
        return
    print("| " + " | ".join(name for name, _ in COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for size in arguments.only or SIZES:
        flops = math.nan
        for framework in ("jax", "torch"):
            command = [sys.executable, __file__, f"--row={size}/{framework}"]
            command += [f"--batch-size={arguments.batch_size}", f"--repeats={arguments.repeats}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            flops = found.setdefault("gflop", flops)
            found["share"] = flops / (found["step_ms"] / 1e3) / found["peak"]
            print("| " + " | ".join(form.format(**found) for _, form in COLUMNS) + " |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SIZES, action="append", help="this size only; may be given again")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="the table of memory at the real size")
    parser.add_argument("--check", action="store_true", help="and compare the reckoning with what is held")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args()


def _inputs(sizes: Sizes, rows: int) -> dict[str, np.ndarray]:
    rng, side = np.random.default_rng(0), sizes.vision.side
    found: dict[str, np.ndarray] = {}
    for name in ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"):
        found[f"image/{name}"] = rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
        found[f"image_mask/{name}"] = np.ones(rows, bool)
    found["tokens"] = rng.integers(1, sizes.vocabulary, (rows, WORDS)).astype(np.int32)
    found["token_mask"] = np.ones((rows, WORDS), bool)
    found["state"] = rng.standard_normal((rows, sizes.action_dim)).astype(np.float32)
    found["action"] = rng.standard_normal((rows, HORIZON, sizes.action_dim)).astype(np.float32)
    return found


def _jax_row(sizes: Sizes, repeats: int, rows: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from xp.models.pi0.initial import initial_weights
    from xp.models.pi0.network.flow import Network
    from xp.models.tree import flatten, unflatten
    from xp.training.jax.step import initial_state, make_optimiser, make_step, seed_words
    from xp.training.options import TrainerOptions
    from xp.training.partition import split

    network, on_gpu = Network(sizes=sizes), jax.default_backend() == "gpu"
    weights = initial_weights(network.shapes(), 0)
    options = TrainerOptions.read({"steps": 1, "clip_norm": 1.0})
    partition = split(flatten(unflatten(weights)))
    optimiser = make_optimiser(options, partition)
    state = initial_state(partition, optimiser, options)
    rest = (jax.device_put(partition.frozen), jax.device_put(_inputs(sizes, rows)), seed_words(0), np.uint32(0),
        np.float32(1e-4), np.bool_(False))  # fmt: skip
    program = make_step(network.loss, optimiser, options)
    flops = _products(jax.make_jaxpr(program)(state, *rest).jaxpr)
    compiled = program.lower(state, *rest).compile()
    held = {"state": state}

    def step() -> Any:
        held["state"], outcome = compiled(held["state"], *rest)
        return outcome

    one, tree = _inputs(sizes, 1), jax.device_put(unflatten(weights))
    noise = jnp.zeros((1, HORIZON, sizes.action_dim))
    ways = {"action_ms": jax.jit(network.sample, static_argnums=3)}
    ways["uncached_ms"] = jax.jit(network.sample_uncached, static_argnums=3)
    square = jnp.ones((2048 * (8 if on_gpu else 1),) * 2, jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    peak = (
        2 * len(square) ** 3 / 1e9 / _fastest(lambda: jax.block_until_ready(product(square, square)), repeats, on_gpu)
    )
    seconds = _fastest(lambda: jax.block_until_ready(step()), repeats, on_gpu)
    acts = {
        name: 1e3 * _fastest(lambda way=way: jax.block_until_ready(way(tree, one, noise, 10)), repeats, on_gpu)
        for name, way in ways.items()
    }
    memory = jax.devices()[0].memory_stats()["peak_bytes_in_use"] if on_gpu else _held()
    return {
        "parameters": network.parameters / 1e6,
        "step_ms": 1e3 * seconds,
        "gflop": flops / 1e9,
        "peak": peak,
        "memory_mb": memory / 1e6,
        **acts,
    }


def _products(jaxpr: Any) -> float:
    """FLOPs of the products and convolutions of a program, and of the programs within it."""
    total = 0.0
    for step in jaxpr.eqns:
        given = step.params
        if step.primitive.name == "dot_general":
            ((summed, _), _) = given["dimension_numbers"]
            total += 2 * math.prod(step.outvars[0].aval.shape) * math.prod(step.invars[0].aval.shape[i] for i in summed)
        elif step.primitive.name == "conv_general_dilated":
            kernel = step.invars[1].aval.shape
            outputs = kernel[given["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(step.outvars[0].aval.shape) * math.prod(kernel) / outputs
        times = given["length"] if step.primitive.name == "scan" else 1
        inner = (getattr(value, "jaxpr", value) for value in given.values())
        total += times * sum(_products(each) for each in inner if hasattr(each, "eqns"))
    return total


def _torch_row(sizes: Sizes, repeats: int, rows: int) -> dict[str, Any]:
    import torch

    from xp.models.pi0_torch.build import drawn
    from xp.models.pi0_torch.network import errors, loss, make_model, sample, take

    device, on_gpu = ("cuda" if torch.cuda.is_available() else "cpu"), torch.cuda.is_available()
    model = make_model(sizes, HORIZON, 10)
    take(model, drawn(model, sizes, 0)).to(device)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95))
    batch, one = (
        {name: torch.from_numpy(array).to(device) for name, array in _inputs(sizes, count).items()}
        for count in (rows, 1)
    )
    noise = torch.zeros((1, HORIZON, sizes.action_dim), device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss(model, batch, None).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        if on_gpu:
            torch.cuda.synchronize()

    def act() -> None:
        with torch.no_grad():
            sample(model, one, noise, 10).cpu()

    def act_without_cache() -> None:
        with torch.no_grad():
            for number in range(10):
                errors(model, one, noise, torch.full((1,), 1 - number / 10, device=device)).cpu()

    square = torch.ones((2048 * (8 if on_gpu else 1),) * 2, device=device)
    peak = 2 * len(square) ** 3 / 1e9 / _fastest(lambda: (square @ square)[0, 0].item(), repeats, on_gpu)
    model.train()
    seconds = _fastest(step, repeats, on_gpu)
    model.eval()
    memory = torch.cuda.max_memory_allocated() if on_gpu else _held()
    return {
        "parameters": sum(weight.numel() for weight in trained) / 1e6,
        "step_ms": 1e3 * seconds,
        "peak": peak,
        "action_ms": 1e3 * _fastest(act, repeats, on_gpu),
        "uncached_ms": 1e3 * _fastest(act_without_cache, repeats, on_gpu),
        "memory_mb": memory / 1e6,
    }


def _fastest(call: Callable[[], Any], repeats: int, on_gpu: bool) -> float:
    """Seconds of the fastest call, after one that warms up."""
    clock = time.perf_counter if on_gpu else time.process_time
    call()
    found = []
    for _ in range(repeats):
        start = clock()
        call()
        found.append(clock() - start)
    return min(found)


def _held() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_table(*, check: bool) -> str:
    """What is held for weights and training at the real size, as a Markdown table; see the module."""
    from xp.models.pi0.build import frozen_patterns
    from xp.models.pi0.network.flow import Network

    lines = ["| model | trained | G numbers trained | GB held in training | GB of bfloat16 weights |", "|---" * 5 + "|"]
    for kind in ("pi05", "pi0"):
        for way, suffix, frozen_bytes in WAYS:
            sizes = _real(kind, suffix)
            shapes = {name: leaf.shape for name, leaf in Network(sizes=sizes).shapes().items()}
            trained, held = reckoned(shapes, frozen_patterns(sizes), frozen_bytes)
            whole = sum(map(math.prod, shapes.values())) * BFLOAT16
            lines.append(f"| {kind} | {way} | {trained / 1e9:.3f} | {held / 1e9:.1f} | {whole / 1e9:.1f} |")
    return "\n".join([*lines, *([_checked()] if check else [])])


def _real(kind: str, suffix: str) -> Sizes:
    language, action = EXPERTS[f"gemma_2b{suffix}"], EXPERTS[f"gemma_300m{suffix}"]
    return Sizes(vision=VISIONS["so400m"], language=language, action=action, is_pi05=kind == "pi05")


def reckoned(shapes: dict[str, tuple[int, ...]], frozen: tuple[str, ...], frozen_bytes: float) -> tuple[int, float]:
    """How many numbers are trained, and the bytes that training holds."""
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    kept = sum(count for name, count in counts.items() if any(fnmatch(name, pattern) for pattern in frozen))
    trained = sum(counts.values()) - kept
    return trained, trained * TRAINED + kept * frozen_bytes


def _checked() -> str:
    """The reckoning of `middle` beside the bytes of the arrays that its training holds."""
    import jax

    from xp.models.pi0.initial import initial_weights
    from xp.models.pi0.network.flow import Network
    from xp.models.tree import flatten, unflatten
    from xp.training.jax.step import initial_state, make_optimiser
    from xp.training.options import TrainerOptions
    from xp.training.partition import split

    network = Network(sizes=SIZES["middle"])
    options = TrainerOptions.read({"steps": 1, "clip_norm": 1.0, "ema_decay": 0.99})
    partition = split(flatten(unflatten(initial_weights(network.shapes(), 0))))
    state = initial_state(partition, make_optimiser(options, partition), options)
    gradients = sum(leaf.nbytes for leaf in partition.trained.values())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + gradients
    _, wanted = reckoned({name: leaf.shape for name, leaf in network.shapes().items()}, (), 0.0)
    return f"\nmiddle, all weights: {held / 1e6:.1f} MB held, {wanted / 1e6:.1f} MB reckoned ({held / wanted:.2f} x)"


if __name__ == "__main__":
    main()
