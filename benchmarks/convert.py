"""`task=convert` of a pi0.5: what it holds in memory, and how long it takes beside the libraries that read and write.

    python benchmarks/convert.py [--scale 4] [--rounds 3] [--folder /dev/shm]

The tree has the real model's shapes with all widths and the vocabulary divided by --scale (depths, heads and patches
stay), drawn in float32: as Orbax writes it, one zstd chunk a leaf, like openpi's checkpoints, and as xp writes it, in
small chunks. Rows: xp from each of them to openpi's torch folder, and back; beside it the least that the libraries do,
reading everything into memory and writing it with the same codec and the same chunks, without turning a number:
tensorstore and safetensors (numpy reads the file where tensorstore writes). Every row is a process of its own; `work`
and CPU seconds are without imports, ratios are of the same round, least seconds are printed; anonymous memory is the
peak of RssAnon above what the process held before the work began, sampled every 5 ms.

Bounds: memory at most 2.2 x the largest leaf + 1 GB where a leaf is one chunk, 1.2 x where chunks are small; time at
most 1.3 x of the libraries.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from merge import run

MAKE = """
import dataclasses, json, shutil, sys
from pathlib import Path
import numpy as np, orbax.checkpoint as ocp
from xp.checkpoints.arrays import Leaf
from xp.checkpoints.orbax import chunk_shape
from xp.models.pi0.io.folder import write_step
from xp.models.pi0.io.norm_stats import NormStats, Stats
from xp.models.pi0.io.notes import Notes
from xp.models.pi0.network.sizes import EXPERTS, VISIONS, Sizes, weight_shapes
folder, scale = Path(sys.argv[1]), int(sys.argv[2])
narrow = lambda each, **more: dataclasses.replace(each, width=each.width // scale, mlp=each.mlp // scale, **more)
heads = {"head_dim": EXPERTS["gemma_2b"].head_dim // scale}
sizes = Sizes(vision=narrow(VISIONS["so400m"]), language=narrow(EXPERTS["gemma_2b"], **heads),
              action=narrow(EXPERTS["gemma_300m"], **heads), vocabulary=257152 // scale)
draw = np.random.default_rng(0)
weights = {name: draw.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(sizes).items()}
side = lambda: Stats(mean=np.zeros(8), std=np.ones(8), q01=-np.ones(8), q99=np.ones(8))
notes = Notes(horizon=10, action_dim=8, state_dim=8, cameras={"base_0_rgb": "top"}, sizes={"base_0_rgb": (64, 64)},
              asset_id="xp", tokenizer="words", prompt_length=48, vision_heads=sizes.vision.heads, absolute=())
write_step(folder / "small", 1, weights, {"xp": NormStats(state=side(), actions=side())}, notes, None)
shutil.copytree(folder / "small", folder / "whole", ignore=lambda path, names: ["params"] if "params" in names else [])
shapes = {name: (array.shape, chunk_shape(Leaf(name, array.shape, array.dtype))) for name, array in weights.items()}
(folder / "shapes.json").write_text(json.dumps(shapes))
tree = {}
for path, array in weights.items():
    *above, last = path.split("/")
    place = tree
    for key in above:
        place = place.setdefault(key, {})
    place[last] = {"value": array}
ocp.PyTreeCheckpointer().save(folder / "whole" / "1" / "params", {"params": tree})
print("largest", max(array.nbytes for array in weights.values()))
print("all", sum(array.nbytes for array in weights.values()))
"""
BEGIN = """
import sys, time
from pathlib import Path
held = lambda: int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0])
"""
END = """
print("work", time.perf_counter() - started)
print("cpu", time.process_time() - used)
"""
XP = f"""{BEGIN}
from xp.models.pi0.convert import convert, open_source
print("held", held(), flush=True)
started, used = time.perf_counter(), time.process_time()
convert(open_source(Path(sys.argv[1]), None, {{}}), sys.argv[3], Path(sys.argv[2]))
{END}"""
TO_TORCH = f"""{BEGIN}
import tensorstore
from safetensors.numpy import save_file
print("held", held(), flush=True)
started, used = time.perf_counter(), time.process_time()
base = {{"driver": "ocdbt", "base": f"file://{{sys.argv[1]}}/1/params/"}}
keys = [key.decode() for key in tensorstore.KvStore.open(base).result().list().result()]
names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
specs = {{name: {{"driver": "zarr", "kvstore": {{**base, "path": name + "/"}}}} for name in names}}
opened = {{name: tensorstore.open(spec, open=True, read=True) for name, spec in specs.items()}}
reading = {{name: store.result().read() for name, store in opened.items()}}
Path(sys.argv[2]).mkdir()
save_file({{name: each.result() for name, each in reading.items()}}, Path(sys.argv[2]) / "model.safetensors")
{END}"""
TO_JAX = f"""{BEGIN}
import json, math, struct
import numpy, tensorstore
print("held", held(), flush=True)
started, used = time.perf_counter(), time.process_time()
file = Path(sys.argv[1]) / "model.safetensors"
front = 8 + struct.unpack("<Q", file.open("rb").read(8))[0]
values, at, writing = numpy.fromfile(file, "<f4", offset=front), 0, []
base = {{"driver": "ocdbt", "base": f"file://{{sys.argv[2]}}/1/params/"}}
context = tensorstore.Context({{"file_io_sync": False}})
for name, (shape, chunks) in json.loads((Path(sys.argv[1]).parent / "shapes.json").read_text()).items():
    metadata = {{"shape": shape, "chunks": chunks, "dtype": "<f4", "compressor": None, "fill_value": None}}
    spec = {{"driver": "zarr", "kvstore": {{**base, "path": name + "/"}}, "metadata": metadata}}
    store = tensorstore.open(spec, create=True, open=True, write=True, context=context).result()
    writing.append(store.write(values[at : at + math.prod(shape)].reshape(shape)))
    at += math.prod(shape)
for each in writing:
    each.result()
{END}"""


def taken(script: str, *arguments: str | Path) -> dict[str, float]:
    """See `merge.run`; `anon` is in MB, above what the script said it `held` before it began."""
    found = run([sys.executable, "-c", script, *map(str, arguments)])
    return found | {"anon": 1e3 * found["anon"] - found.get("held", 0.0) / 1e3}


def main() -> None:
    """Make the tree, run the rows in rounds, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default="/dev/shm")
    asked = parser.parse_args()
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        made = taken(MAKE, folder, str(asked.scale))
        largest, everything = made["largest"] / 1e6, made["all"] / 1e6
        print(f"pi05 / {asked.scale}: {everything:,.0f} MB of float32, the largest leaf {largest:,.0f} MB")
        print(f"bounds of memory: {2.2 * largest + 1000:,.0f} MB (one chunk a leaf), {1.2 * largest:,.0f} MB (small)")
        taken(XP, folder / "small", folder / "torch", "openpi_torch")
        rows = {
            "one chunk a leaf to torch": (XP, folder / "whole", "openpi_torch", TO_TORCH),
            "small chunks to torch": (XP, folder / "small", "openpi_torch", TO_TORCH),
            "torch to small chunks": (XP, folder / "torch", "openpi_jax", TO_JAX),
        }
        heads = f"{'work s':>8}{'CPU s':>8}{'MB':>8}"
        print(f"  {'':28}{heads}   {'libraries:':>10}{heads}{'ratio of work':>22}{'ratio of CPU':>22}")
        for row, (script, source, to, peer) in rows.items():
            ours, theirs = [], []
            for _ in range(asked.rounds):
                for rounds, each in ((theirs, peer), (ours, script)):
                    rounds.append(taken(each, source, folder / "out", to))
                    shutil.rmtree(folder / "out")
            print(_line(row, ours, theirs), flush=True)


def _line(row: str, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> str:
    least = [{key: min(each[key] for each in rounds) for key in ("work", "cpu")} for rounds in (ours, theirs)]
    most = [max(each["anon"] for each in rounds) for rounds in (ours, theirs)]
    cells = [f"{each['work']:8.2f}{each['cpu']:8.2f}{held:8.0f}" for each, held in zip(least, most, strict=True)]
    spreads = "".join(f"{_ratio(ours, theirs, key):>22}" for key in ("work", "cpu"))
    return f"  {row:28}{cells[0]}   {'':>10}{cells[1]}{spreads}"


def _ratio(ours: list[dict[str, float]], theirs: list[dict[str, float]], key: str) -> str:
    ratios = [mine[key] / other[key] for mine, other in zip(ours, theirs, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
