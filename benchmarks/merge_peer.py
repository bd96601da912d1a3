"""xp's merge methods beside mergekit's: values, time and memory.

    python benchmarks/merge_peer.py [--environment FOLDER] [--megabytes 300] [--folder /dev/shm] [--only values|work]

mergekit is installed with pip into an environment of its own (made in a temporary folder, or kept in `--environment`);
nothing of it is imported here. Values: a base and three checkpoints of matrices and vectors in float32 and bfloat16
(mergekit computing in float32), the same weights and shares on both sides, and the same draws for methods that draw:
mergekit's `torch.bernoulli` is given xp's. In float32 the largest difference of all entries, in bfloat16 how many
entries are not the same number (mergekit rounds sums in float32, xp sums in float64). Time and memory:
`mergekit-pytorch` and `xp.merge` as whole processes, CPU seconds and peak anonymous memory, imports included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from zlib import crc32

import ml_dtypes
import numpy as np

from merge import run
from xp.checkpoints.arrays import Leaf
from xp.checkpoints.open import open_checkpoint
from xp.checkpoints.safetensors import create_safetensors
from xp.merging import merge
from xp.merging.rules import uniform_draws

VERSION = "0.1.5"
SEED = 11
W = [0.5, 0.3, 0.4]
CASES = [
    ("linear", {"weights": W}, "linear", {"normalize": False}),
    ("linear", {"weights": W, "normalize": True}, "linear", {"normalize": True}),
    ("task_arithmetic", {"weights": W, "scale": 0.7}, "task_arithmetic", {"lambda": 0.7}),
    ("ties", {"weights": W, "density": [0.2, 0.5, 0.8]}, "ties", {}),
    ("ties", {"weights": W, "density": 0.3, "normalize": False, "rescale": "l1"}, "ties",
     {"normalize": False, "rescale": True}),
    ("dare", {"weights": W, "density": 0.5, "rescale": "l1"}, "dare_linear", {}),
    ("dare_ties", {"weights": W, "density": 0.5, "rescale": "l1"}, "dare_ties", {}),
    ("breadcrumbs", {"weights": W, "density": 0.6, "gamma": 0.05}, "breadcrumbs", {"gamma": 0.05}),
    ("breadcrumbs_ties", {"weights": W, "density": 0.6, "gamma": 0.05}, "breadcrumbs_ties", {"gamma": 0.05}),
    ("della", {"weights": W, "density": 0.5, "epsilon": 0.125, "rescale": "l1"}, "della", {"epsilon": 0.125}),
    ("sce", {}, "sce", {}),
    ("sce", {"select_topk": 0.25}, "sce", {"select_topk": 0.25}),
    ("model_stock", {}, "model_stock", {}),
    ("karcher", {}, "karcher", {"max_iter": 50, "tol": 1e-9}),
    ("nuslerp", {"weights": W[:2]}, "nuslerp", {}),
    ("nuslerp", {"weights": W[:2], "along": "last"}, "nuslerp", {"nuslerp_flatten": False}),
    ("nuslerp", {"weights": W[:2], "along": "first"}, "nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
]  # fmt: skip
LARGE = (0, 3, 6, 9, 10)
"""The cases that are timed: linear, ties, dare_ties, della and sce."""
BASELESS = ("linear", "karcher")
COUNTS = {"nuslerp": 2}
SHAPES = {"a.weight": (300, 200), "b.weight": (64, 129), "c.bias": (257,)}
PEER = """
import json, sys
import numpy as np, torch
draws, calls = dict(np.load(sys.argv[1])), {}
def bernoulli(odds):
    key = str(odds.numel())
    k = calls[key] = calls.get(key, -1) + 1
    return (torch.from_numpy(draws[key][k]).reshape(odds.shape) >= 1 - odds.double()).to(odds.dtype)
torch.bernoulli = bernoulli
from mergekit.scripts.merge_raw_pytorch import main
for config, output in json.loads(sys.argv[2]):
    calls.clear()
    main([config, output], standalone_mode=False)
"""
XP = """
import json, sys
from xp.merging import merge
method, base, options, output, *paths = sys.argv[1:]
merge(paths, method, output=output, base=base or None, **json.loads(options))
"""


def environment(folder: Path) -> Path:
    """An environment with mergekit in it, made if it is not there: its Python."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"mergekit=={VERSION}"], check=True)
    return python


def write(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A safetensors checkpoint."""
    folder.mkdir(parents=True)
    leaves = {name: Leaf(name, array.shape, array.dtype) for name, array in arrays.items()}
    writer = create_safetensors(folder, leaves, ties={}, shard_map={})
    for name, array in arrays.items():
        writer.write(name, 0, array.reshape(-1))
    writer.close()
    return folder


def family(folder: Path, kind: np.dtype, shapes: dict[str, tuple[int, ...]]) -> list[Path]:
    """A base and three checkpoints that went some way from it."""
    draw = np.random.default_rng(0)
    base = {name: draw.standard_normal(shape, np.float32).astype(kind) for name, shape in shapes.items()}
    shared = {name: 0.2 * draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    tuned = []
    for _ in range(3):
        moved = {n: s + 0.2 * draw.standard_normal(s.shape, np.float32) for n, s in shared.items()}
        tuned.append({name: (array + base[name].astype(np.float32)).astype(kind) for name, array in moved.items()})
    return [write(folder / f"c{k}", arrays) for k, arrays in enumerate([base, *tuned])]


def peer_config(file: Path, case: tuple, paths: list[Path], out_dtype: str) -> Path:
    """mergekit's YAML (which JSON is) for a case."""
    method, options, name, parameters = case
    weights, density = options.get("weights", [1.0] * 3), options.get("density", 1.0)
    density = density if isinstance(density, list) else [density] * 3
    own = name not in ("sce", "model_stock", "karcher")
    models = []
    for k, path in enumerate(paths[1 : 1 + COUNTS.get(method, 3)]):
        given = {"weight": weights[k]} if own else {}
        if "density" in options:
            given["density"] = density[k]
        models.append({"model": str(path / "model.safetensors"), "parameters": given})
    content = {"merge_method": name, "models": models, "parameters": parameters, "dtype": "float32"}
    content["out_dtype"] = out_dtype
    if method not in BASELESS:
        content["base_model"] = str(paths[0] / "model.safetensors")
        if name == "model_stock":
            content["models"].append({"model": content["base_model"]})
    file.write_text(json.dumps(content))
    return file


def keep_draws(file: Path) -> Path:
    """xp's draws for every tensor and checkpoint, by the number of elements."""
    found = {}
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        keys = [(SEED << 64) | (crc32(name.encode()) << 32) | k for k in range(3)]
        found[str(size)] = np.stack([uniform_draws(key, 0, size) for key in keys])
    np.savez(file, **found)
    return file


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """A checkpoint's arrays as float64."""
    reader = open_checkpoint(path).reader
    return {name: reader.read(name, 0, leaf.size).astype(np.float64) for name, leaf in reader.leaves.items()}


def difference(ours: Path, theirs: Path, kind: np.dtype) -> float:
    """The largest of all entries; in bfloat16 the share of entries that differ."""
    found = arrays_of(theirs)
    away = np.concatenate([np.abs(array - found[name]) for name, array in arrays_of(ours).items()])
    return float(away.max()) if kind == np.float32 else float(np.mean(away != 0))


def compare_values(python: Path, folder: Path) -> None:
    """One line a case."""
    draws = keep_draws(folder / "draws.npz")
    kinds = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
    families = {word: family(folder / word, kind, SHAPES) for word, kind in kinds.items()}
    wanted = []
    for number, case in enumerate(CASES):
        method, options, _, _ = case
        for word, paths in families.items():
            base = None if method in BASELESS else paths[0]
            output = folder / f"xp_{number}_{word}"
            merge(paths[1 : 1 + COUNTS.get(method, 3)], method, base=base, seed=SEED, output=output, **options)
            config = peer_config(folder / f"{number}_{word}.yml", case, paths, word)
            wanted.append((str(config), str(folder / f"peer_{number}_{word}")))
    done = subprocess.run([str(python), "-c", PEER, str(draws), json.dumps(wanted)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mergekit failed:\n{done.stderr[-3000:]}")
    print(f"{'method':17} {'options':64} float32   bfloat16 differing")
    for number, (method, options, _, _) in enumerate(CASES):
        found = [
            difference(folder / f"xp_{number}_{word}", folder / f"peer_{number}_{word}", kind)
            for word, kind in kinds.items()
        ]
        print(f"{method:17} {json.dumps(options):64} {found[0]:.1e}   {found[1]:.2e}", flush=True)


def compare_work(python: Path, folder: Path, megabytes: float) -> None:
    """CPU seconds and memory of some methods, whole processes."""
    rows = max(1, round(megabytes * 1e6 / 2 / 2048 / 8))
    paths = family(folder / "large", np.dtype(ml_dtypes.bfloat16), {f"l{k}.weight": (rows, 2048) for k in range(8)})
    print(f"\n3 x {megabytes:g} MB bfloat16, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'method':17} {'':6} wall s   CPU s   anonymous GB")
    for number in LARGE:
        case = CASES[number]
        method, options, _, _ = case
        base = "" if method in BASELESS else str(paths[0])
        output = folder / f"large_{number}"
        config = peer_config(folder / f"large_{number}.yml", case, paths, "bfloat16")
        commands = {
            "xp": [sys.executable, "-c", XP, method, base, json.dumps(options), f"{output}_xp", *map(str, paths[1:])],
            "peer": [str(python), "-m", "mergekit.scripts.merge_raw_pytorch", str(config), f"{output}_peer"],
        }
        for who, command in commands.items():
            found = run(command)
            print(f"{method:17} {who:6} {found['seconds']:6.1f} {found['cpu']:7.1f} {found['anon']:8.2f}", flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--environment", type=Path)
    parser.add_argument("--megabytes", type=float, default=300)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=("values", "work"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        python = environment(given.environment or folder / "environment")
        if given.only != "work":
            compare_values(python, folder)
        if given.only != "values":
            compare_work(python, folder, given.megabytes)


if __name__ == "__main__":
    main()
