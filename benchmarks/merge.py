"""Merging measured against its limit: reading three checkpoints and writing one.

    python benchmarks/merge.py [--gigabytes 1.5] [--orbax-megabytes 490] [--rounds 3] [--folder /dev/shm]

Rows for bf16 safetensors: `dd` (the limit), xp (`xp.merge`, everything included: preflight, digests of inputs and
output, diagnostics, reading the output back), xp's streaming alone, the naive way in torch (load, average in float32,
save), and mergekit-pytorch where it is installed. Rows for float32 Orbax checkpoints of whole-leaf zstd chunks, as
openpi writes them: restoring all with Orbax and saving the mean, and xp; then xp again on checkpoints that it wrote
itself. Every row is a process of its own, timed from start to end (imports included; `work` is without them), in
rounds; ratios are to the limit of the same round. Anonymous memory is the peak of RssAnon, sampled every 5 ms.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

MAKE_BF16 = """
import sys, numpy as np, ml_dtypes
from pathlib import Path
from xp.checkpoints.arrays import Leaf
from xp.checkpoints.safetensors import create_safetensors
folder, gigabytes = Path(sys.argv[1]), float(sys.argv[2])
kind, width = np.dtype(ml_dtypes.bfloat16), 2048
words = round(32000 * min(1.0, gigabytes))
layers = max(1, round((gigabytes * 1e9 / 2 - 2 * words * width) / (4 * width**2 + 3 * 5632 * width)))
shapes = {"embed": (words, width), "head": (words, width)}
for i in range(layers):
    shapes |= {f"layers.{i}.{n}.weight": (width, width) for n in "qkvo"}
    shapes |= {f"layers.{i}.{n}.weight": (5632, width) for n in ("gate", "up", "down")}
leaves = {n: Leaf(n, s, kind) for n, s in shapes.items()}
for k in range(3):
    (folder / f"c{k}").mkdir()
    writer = create_safetensors(folder / f"c{k}", leaves, ties={}, shard_map={})
    draw = np.random.default_rng(k)
    for leaf in leaves.values():
        writer.write(leaf.name, 0, draw.standard_normal(leaf.size, dtype=np.float32).astype(kind))
    writer.close()
"""
MAKE_ORBAX = """
import sys, numpy as np, orbax.checkpoint as ocp
from pathlib import Path
folder, megabytes = Path(sys.argv[1]), float(sys.argv[2])
unit = megabytes * 1e6 / 4 / 26
shape = lambda share: (18, max(1, int(unit * share / 18 / 256)), 256)
for k in range(3):
    draw = np.random.default_rng(k)
    leaf = lambda share: draw.standard_normal(shape(share), dtype=np.float32)
    llm = {"layers": {"gating_einsum": leaf(9.4), "linear": leaf(4.7), "q_einsum": leaf(1.2)}, "embedder": leaf(4)}
    expert = {"layers": {"gating": leaf(3), "linear": leaf(1.5)}}
    tree = {"llm": llm, "img": {"encoderblock": {"a": leaf(1.1), "b": leaf(1.1)}}, "expert": expert}
    ocp.PyTreeCheckpointer().save(folder / f"o{k}" / "params", {"params": tree})
"""
XP = """
import sys, time
from xp.merging import merge
started = time.perf_counter()
merge(sys.argv[2:], "average", output=sys.argv[1])
print("work", time.perf_counter() - started)
print("modules", [m for m in ("torch", "jax") if m in sys.modules])
"""
STREAM = """
import sys, time
from pathlib import Path
import numpy as np
from xp.checkpoints.open import create_like, open_checkpoint
from xp.merging.engine import Stream
from xp.merging.groups import make_units
from xp.merging.merge_rules import Linear
started = time.perf_counter()
inputs = [open_checkpoint(path) for path in sys.argv[2:]]
leaves = inputs[0].reader.leaves
Path(sys.argv[1]).mkdir()
writer = create_like(inputs[0], Path(sys.argv[1]), leaves)
stream = Stream([c.reader for c in inputs], leaves)
rule = Linear(make_units(leaves, "checkpoint", {}), np.full((1, len(inputs)), 1 / len(inputs)))
stream.run(stream.jobs(rule, writer), rule, writer)
writer.close()
print("work", time.perf_counter() - started)
"""
NAIVE = """
import sys, time, os
import torch
from safetensors.torch import load_file, save_file
started = time.perf_counter()
loaded = [load_file(path + "/model.safetensors") for path in sys.argv[2:]]
os.makedirs(sys.argv[1])
mean = {n: (sum(l[n].float() for l in loaded) / len(loaded)).to(loaded[0][n].dtype) for n in loaded[0]}
save_file(mean, sys.argv[1] + "/model.safetensors")
print("work", time.perf_counter() - started)
"""
RESTORE = """
import sys, time
from pathlib import Path
import jax, numpy as np, orbax.checkpoint as ocp
started = time.perf_counter()
checkpointer = ocp.PyTreeCheckpointer()
loaded = [checkpointer.restore(Path(path) / "params") for path in sys.argv[2:]]
mean = jax.tree.map(lambda *xs: sum(xs) / np.float32(len(xs)), *loaded)
checkpointer.save(Path(sys.argv[1]) / "0" / "params", mean)
print("work", time.perf_counter() - started)
"""


def run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, float]:
    """Seconds, CPU seconds, peak anonymous memory in GB, and each number that is printed behind one word (`work`).

    A `cpu` that is printed stands for that of the whole process.
    """
    before, started = os.times(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    peak = _watched(process.pid)
    out, error = process.communicate()
    seconds, after = time.perf_counter() - started, os.times()
    if process.returncode:
        sys.exit(f"{command[:3]} failed:\n{error[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    assert "modules" not in out or "modules []" in out, "xp imported torch or jax"
    lines = [line.split() for line in out.splitlines() if not line.startswith("modules")]
    said = {words[0]: float(words[1]) for words in lines if len(words) == 2}
    return {"work": seconds, "cpu": cpu} | said | {"seconds": seconds, "anon": peak()}


def _watched(pid: int):
    """Sample RssAnon of a process until it is gone; the answer gives its peak in GB."""
    found = [0]

    def watch() -> None:
        while True:
            try:
                text = Path(f"/proc/{pid}/status").read_text()
                found[0] = max(found[0], int(text.split("RssAnon:")[1].split()[0]))
            except (OSError, IndexError):
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return lambda: (thread.join(1), found[0] / 1e6)[1]


def dd(inputs: list[Path], output: Path) -> dict[str, float]:
    """Read every file of the inputs, and write one input's again."""
    files = [file for path in inputs for file in sorted(path.rglob("*")) if file.is_file()]
    last = [file for file in sorted(inputs[0].rglob("*")) if file.is_file()]
    reads = " && ".join(f"dd if={file} of=/dev/null bs=1M status=none" for file in files if file not in last)
    writes = " && ".join(f"dd if={file} of={output}.{i} bs=1M status=none" for i, file in enumerate(last))
    found = run(["sh", "-c", f"{reads} && {writes}"])
    for i in range(len(last)):
        Path(f"{output}.{i}").unlink()
    return found


def rounds(rows: dict, inputs: list[Path], folder: Path, count: int) -> None:
    """Each row once a round, the limit first; prints minima and the median ratio to the limit of the same round."""
    measured: dict[str, list[dict[str, float]]] = {"limit (dd)": []} | {name: [] for name in rows}
    for _ in range(count):
        measured["limit (dd)"].append(dd(inputs, folder / "dd"))
        for name, script in rows.items():
            out = folder / "out"
            command = (
                [sys.executable, "-c", script, str(out), *map(str, inputs)] if isinstance(script, str) else script(out)
            )
            measured[name].append(run(command))
            shutil.rmtree(out, ignore_errors=True)
    limits = [row["seconds"] for row in measured["limit (dd)"]]
    print(f"  {'':34}{'wall s':>8}{'work s':>8}{'CPU s':>8}{'anon GB':>9}{'work / limit':>22}")
    for name, taken in measured.items():
        ratios = [row["work"] / limit for row, limit in zip(taken, limits)]
        low = {key: min(row[key] for row in taken) for key in taken[0]}
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {name:34}{low['seconds']:8.2f}{low['work']:8.2f}{low['cpu']:8.2f}{low['anon']:9.2f}{spread:>22}")


def identical(folder: Path, inputs: list[Path]) -> bool:
    """Whether xp's average equals float32 sums divided by three and rounded once, tensor by tensor in numpy."""
    import numpy as np

    from xp.checkpoints.open import open_checkpoint
    from xp.merging import merge

    merge(inputs, "average", output=folder / "check")
    readers = [open_checkpoint(path).reader for path in (*inputs, folder / "check")]
    same = True
    for name, leaf in readers[0].leaves.items():
        *arrays, merged = (reader.read(name, 0, leaf.size) for reader in readers)
        total = arrays[0].astype(np.float32)
        for array in arrays[1:]:
            total += array.astype(np.float32)
        total /= np.float32(len(arrays))
        same &= total.astype(leaf.dtype).tobytes() == merged.tobytes()
    shutil.rmtree(folder / "check")
    return same


def safetensors_rows(folder: Path, inputs: list[Path]) -> dict:
    """The rows for bf16 safetensors."""
    rows: dict = {"xp.merge, all included": XP, "xp, streaming alone": STREAM, "naive torch": NAIVE}
    tool = shutil.which("mergekit-pytorch")
    if tool:
        recipe = {
            "merge_method": "linear",
            "dtype": "bfloat16",
            "models": [{"model": str(p / "model.safetensors"), "parameters": {"weight": 1.0}} for p in inputs],
        }
        (folder / "recipe.yml").write_text(json.dumps(recipe))
        rows["mergekit-pytorch"] = lambda out: [tool, str(folder / "recipe.yml"), str(out)]
    else:
        print("  mergekit is not installed (uv pip install mergekit==0.1.5): no row for it")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.5)
    parser.add_argument("--orbax-megabytes", type=float, default=490)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default="/dev/shm")
    asked = parser.parse_args()
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        run([sys.executable, "-c", MAKE_BF16, name, str(asked.gigabytes)])
        inputs = [folder / f"c{k}" for k in range(3)]
        print(f"3 x {asked.gigabytes} GB bf16 safetensors, {asked.rounds} rounds")
        rounds(safetensors_rows(folder, inputs), inputs, folder, asked.rounds)
        print(f"  bit-identical to float32-accumulated arithmetic: {identical(folder, inputs)}")
        for path in inputs:
            shutil.rmtree(path)
        run([sys.executable, "-c", MAKE_ORBAX, name, str(asked.orbax_megabytes)])
        inputs = [folder / f"o{k}" for k in range(3)]
        print(f"3 x {asked.orbax_megabytes:.0f} MB float32 Orbax, one zstd chunk a leaf, {asked.rounds} rounds")
        rounds({"Orbax: restore all, mean, save": RESTORE, "xp.merge, all included": XP, "xp, streaming alone": STREAM},
               inputs, folder, asked.rounds)  # fmt: skip
        run([sys.executable, "-c", XP, str(folder / "r0"), *map(str, inputs)])
        for k in (1, 2):
            shutil.copytree(folder / "r0", folder / f"r{k}")
        print("the same, on checkpoints that xp wrote (a few layers a chunk, uncompressed)")
        inputs = [folder / f"r{k}" for k in range(3)]
        rounds({"xp.merge, all included": XP, "xp, streaming alone": STREAM}, inputs, folder, asked.rounds)


if __name__ == "__main__":
    main()
