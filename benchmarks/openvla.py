"""What an OpenVLA costs: actions a second in each way of asking for a chunk, and the memory that training holds.

    python benchmarks/openvla.py                      # tiny and middle: token by token, in one pass, in batches
    python benchmarks/openvla.py --only tiny --repeats 5
    python benchmarks/openvla.py --memory             # peak bytes of a training step at the published size
    python benchmarks/openvla.py --memory --check     # and of a scaled model: reckoned beside measured
    python benchmarks/openvla.py --real               # the published size, with random weights in bfloat16: for a GPU

Times are CPU seconds of all threads (wall seconds on a GPU), since wall time on a shared machine says little; of each
the minimum over `--repeats`, all ways of a size in one process. Weights are random. FLOPs are those that torch counts;
the peak is measured beside them with square products in the same numbers. Chunks have four actions of seven numbers.
Published are about 6 actions a second (token by token, one action an answer, RTX 4090; Kim et al., "OpenVLA: An
Open-Source Vision-Language-Action Model", 2024) and 109.7 (eight in one pass with an L1 head, A100; Kim et al.,
"Fine-Tuning Vision-Language-Action Models: Optimizing Speed and Success", 2025).

The memory of a step is counted over a step whose tensors have shapes and no memory: weights, what is trained with its
gradient and both moments of Adam, and the activations at their largest. An adapter of rank 32 on all linear layers, the
base in bfloat16; "4 bits" takes from the base's linear layers what they are smaller then (half a byte a number and a
float32 scale for each 64), without the room that a layer's numbers take while they are unpacked. Checked on a scaled
model with the layers' own ratios: a process of its own takes two steps, and what it holds more than before is read off
the kernel's count.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from xp.models.openvla.adapters import adapt
from xp.models.openvla.chunks import ChunkPlan
from xp.models.openvla.decoding import generate
from xp.models.openvla.model import HEADS, Marks, ModelInputs, OpenVLAModel
from xp.models.openvla.options import Adaptation
from xp.models.openvla.sizes import LanguageSizes, NetworkSizes, TowerSizes
from xp.runs.execution import threads

SIZES = {
    "tiny": NetworkSizes(
        image=(96, 96),
        patch=12,
        dino=TowerSizes(width=64, layers=4, heads=4, mlp=256),
        siglip=TowerSizes(width=64, layers=4, heads=4, mlp=256),
        language=LanguageSizes(vocabulary=1024, width=128, layers=3, heads=4, mlp=384),
    ),
    "middle": NetworkSizes(
        image=(224, 224),
        patch=14,
        dino=TowerSizes(width=128, layers=6, heads=4, mlp=512),
        siglip=TowerSizes(width=144, layers=6, heads=4, mlp=538),
        language=LanguageSizes(vocabulary=8192, width=512, layers=8, heads=8, mlp=1376),
    ),
    "quarter": NetworkSizes(
        image=(224, 224),
        patch=14,
        dino=TowerSizes(width=256, layers=6, heads=4, mlp=1024),
        siglip=TowerSizes(width=288, layers=7, heads=4, mlp=1076),
        language=LanguageSizes(vocabulary=8016, width=1024, layers=8, heads=8, mlp=2752),
    ),
    "7b": NetworkSizes(
        image=(224, 224),
        patch=14,
        dino=TowerSizes(width=1024, layers=24, heads=16, mlp=4096),
        siglip=TowerSizes(width=1152, layers=27, heads=16, mlp=4304),
        language=LanguageSizes(),
    ),
}
"""`middle` has about an eighth of the published widths, `quarter` a quarter of all, both all image tokens."""
HORIZON, ACTION_DIM, WORDS, RANK = 4, 7, 24, 32
ROWS = (1, 8)
"""Batches of a training step in the table of memory."""
COLUMNS = (
    ("size", "{size}"), ("way", "{way}"), ("batch", "{rows}"), ("ms a chunk", "{ms:.1f}"),
    ("actions a second", "{rate:.2f}"), ("to token by token", "{ratio:.2f}"), ("GFLOP a chunk", "{gflop:.2f}"),
    ("of the matmul peak", "{share:.2f}"),
)  # fmt: skip
FOUR_BITS, BFLOAT16 = 0.5 + 4 / 64, 2.0
"""Bytes of a number of the base."""


def main() -> None:
    """Print what is asked for as a Markdown table."""
    asked = _arguments()
    if asked.row:
        print(json.dumps(_rows(asked.row, asked.repeats)))
    elif asked.step:
        print(json.dumps(_measured_step(asked.step)))
    elif asked.memory:
        print(memory_table("7b"))
        if asked.check:
            print(_checked())
    else:
        names = ["7b"] if asked.real else asked.only or ["tiny", "middle"]
        print("| " + " | ".join(name for name, _ in COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        for size in names:
            for row in _child(f"--row={size}", f"--repeats={asked.repeats}"):
                print("| " + " | ".join(form.format(**row) for _, form in COLUMNS) + " |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("tiny", "middle"), action="append", help="this size only")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="the table of memory at the published size")
    parser.add_argument("--check", action="store_true", help="and reckoned beside measured, of a scaled model")
    parser.add_argument("--real", action="store_true", help="the published size; 15 GB of weights")
    parser.add_argument("--row", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""What is freed goes back, so that the kernel's count is exact; each tensor then costs page faults."""


def _child(*arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    command = [sys.executable, __file__, *arguments]
    given = {**os.environ, **threads.environment(), **(environment or {})}  # threads that wait are asleep
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=given)
    return json.loads(done.stdout.splitlines()[-1])


def _inputs(sizes: NetworkSizes, rows: int, device: torch.device | str) -> ModelInputs:
    """A batch of random pictures and words with random answers."""
    draw = torch.Generator().manual_seed(0)
    count = HORIZON * ACTION_DIM
    return {
        "pictures": torch.randint(256, (rows, 1, *sizes.image, 3), generator=draw, dtype=torch.uint8).to(device),
        "words": torch.randint(3, 256, (rows, WORDS), generator=draw).to(device),
        "is_word": torch.ones((rows, WORDS), dtype=torch.bool, device=device),
        "tokens": torch.randint(256, 512, (rows, count), generator=draw).to(device),
        "targets": (2 * torch.rand((rows, HORIZON, ACTION_DIM), generator=draw) - 1).to(device),
        "is_pad": torch.zeros((rows, HORIZON), dtype=torch.bool, device=device),
    }


def _model(sizes: NetworkSizes, mode: str, head: str, dtype: torch.dtype) -> OpenVLAModel:
    plan = ChunkPlan(mode=mode, head=head, horizon=HORIZON, action_dim=ACTION_DIM)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # made in it, not cast: tensors without memory cannot be
    try:
        return OpenVLAModel(sizes, plan, marks=Marks(bos=1, eos=2))
    finally:
        torch.set_default_dtype(usual)


def _rows(size: str, repeats: int) -> list[dict[str, Any]]:
    """Every way of asking a model of one size, in this process."""
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    square = torch.ones((8192 if on_gpu else 1024,) * 2, device=device, dtype=dtype)
    peak = 2 * len(square) ** 3 / 1e9 / _fastest(lambda: (square @ square)[0, 0].item(), repeats, on_gpu)
    found: list[dict[str, Any]] = []
    for way, mode, head, rows, is_cached in (
        ("token by token", "autoregressive", "token", 1, True),
        ("token by token, nothing kept", "autoregressive", "token", 1, False),
        ("token by token", "autoregressive", "token", 8, True),
        ("in one pass", "parallel", "token", 1, True),
        ("in one pass, L1 head", "parallel", "l1", 1, True),
        ("in one pass, L1 head", "parallel", "l1", 8, True),
    ):
        torch.manual_seed(0)
        with torch.device(device):
            model = _model(SIZES[size], mode, head, dtype).eval()
        inputs = _inputs(SIZES[size], rows, device)

        def ask(model: OpenVLAModel = model, inputs: ModelInputs = inputs, is_cached: bool = is_cached) -> None:
            with torch.no_grad():
                if is_cached:
                    model.answer(inputs).cpu()
                else:
                    generate(model, model.prompt(inputs), model.plan.tokens, is_cached=False).cpu()

        gflop = _gflop(ask)
        seconds = _fastest(ask, repeats, on_gpu)
        rate = HORIZON * rows / seconds
        first = found[0]["rate"] if found else rate
        found.append(
            {"size": size, "way": way, "rows": rows, "ms": 1e3 * seconds, "rate": rate, "ratio": rate / first,
             "gflop": gflop / rows, "share": gflop / seconds / peak}
        )  # fmt: skip
        del model
    return found


def _gflop(call: Callable[[], None]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


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


def memory_table(size: str) -> str:
    """The most that a training step holds with an adapter, as a Markdown table; see the module."""
    heads = ("base", "batch", "GB of the base", "GB trained", "GB at most in a step", "with gradient_checkpointing")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    ways = {(rows, again): reckoned_step(size, rows, computes_again=again) for rows in ROWS for again in (False, True)}
    for name, number in (("bfloat16", BFLOAT16), ("4 bits", FOUR_BITS)):
        for rows in ROWS:
            found = ways[rows, False]
            saved = found["linear"] * (BFLOAT16 - number)
            most = [ways[rows, again]["most"] - saved for again in (False, True)]
            numbers = (found["base"] - saved, found["trained"], *most)
            lines.append(f"| {name} | {rows} | " + " | ".join(f"{each / 1e9:.1f}" for each in numbers) + " |")
    return "\n".join(lines)


def reckoned_step(size: str, rows: int, *, computes_again: bool = False) -> dict[str, float]:
    """Bytes of the base, of what is trained (value, gradient, moments) and of the most in a step; none is taken.

    `linear` counts the numbers of the base's linear layers, which 4 bits could hold; `computes_again`: what
    `model.gradient_checkpointing` does.
    """
    with torch.device("meta"):
        model = _adapted(SIZES[size])
        if computes_again:
            model.checkpoint_gradients()
    with FakeTensorMode(), _with_shapes_alone(model) as weights, _Live(weights) as live:
        inputs, optimiser = _inputs(SIZES[size], rows, "cpu"), _optimiser(model)
        for _ in range(2):  # Adam makes its moments in the first
            _step(model, optimiser, inputs)
    every = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    own = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    linear = sum(weight.numel() for name, weight in model.named_parameters() if name.endswith("base_layer.weight"))
    return {"base": every - own, "trained": 4 * own, "most": live.most, "linear": linear}


@contextmanager
def _with_shapes_alone(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Weights that say to be the processor's, so that attention is computed as it computes it; on "meta" it is not."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            made = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(module, name, torch.nn.Parameter(made, weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    yield list(model.parameters())


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that live, the given ones and those made within; `most` is their largest sum."""

    def __init__(self, there: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.held = self.most = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in there:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._note, found)
        return found

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = size = storage.nbytes()
            weakref.finalize(storage, self._forget, size)
            self.held += size
            self.most = max(self.most, self.held)

    def _forget(self, size: int) -> None:
        self.held -= size


def _adapted(sizes: NetworkSizes) -> OpenVLAModel:
    model = _model(sizes, "parallel", "l1", torch.bfloat16)
    adapt(model, Adaptation(rank=RANK, alpha=16), Path("base"), HEADS)
    return model.train()


def _optimiser(model: OpenVLAModel) -> torch.optim.Optimizer:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, foreach=False)


def _step(model: OpenVLAModel, optimiser: torch.optim.Optimizer, inputs: ModelInputs) -> None:
    optimiser.zero_grad(set_to_none=True)
    model(inputs)[0].backward()
    optimiser.step()


def _measured_step(rows: int) -> dict[str, float]:
    """The most that `quarter` holds in a step more than the process held before it was made, by the kernel's count."""
    sizes = SIZES["quarter"]
    torch.manual_seed(0)
    small = _adapted(SIZES["tiny"])
    for _ in range(2):  # whatever libraries take once
        _step(small, _optimiser(small), _inputs(SIZES["tiny"], 1, "cpu"))
    with _highest() as found:
        model = _adapted(sizes)
        optimiser = _optimiser(model)
        inputs = _inputs(sizes, rows, "cpu")
        for _ in range(2):
            _step(model, optimiser, inputs)
    return {"most": found[0]}


@contextmanager
def _highest() -> Iterator[list[float]]:
    """The most anonymous memory (bytes) held within the block, more than at its beginning."""
    Path("/proc/self/clear_refs").write_text("5")
    before, found = _status("VmRSS"), [math.nan]
    yield found
    found[0] = _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _checked() -> str:
    """What a step of `quarter` holds: reckoned beside measured."""
    lines = ["\n| quarter, batch | MB reckoned | MB measured | measured / reckoned |", "|---" * 4 + "|"]
    for rows in ROWS:
        reckoned, measured = (
            reckoned_step("quarter", rows)["most"],
            _child(f"--step={rows}", environment=GIVEN_BACK)["most"],
        )
        lines.append(f"| {rows} | {reckoned / 1e6:.0f} | {measured / 1e6:.0f} | {measured / reckoned:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
