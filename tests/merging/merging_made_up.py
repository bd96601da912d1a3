"""Small checkpoints of every format, and objectives whose best weights are known."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from xp.checkpoints.arrays import Leaf
from xp.checkpoints.flax_msgpack import create_msgpack
from xp.checkpoints.orbax import OrbaxWriter, Tree, TreeEntry, write_step_metadata
from xp.checkpoints.safetensors import create_safetensors

OPENPI = Path(__file__).parents[2] / "../shared/reference/openpi"
OCTO = Path(__file__).parents[2] / "../shared/reference/octo"
needs_reference = pytest.mark.skipif(
    not OPENPI.is_dir(), reason="the reference checkpoints are not beside the checkout"
)
BF16 = np.dtype(ml_dtypes.bfloat16)
STATS = {"mean": [0.0, 1.0], "std": [1.0, 2.0], "q01": [-2.0, -3.0], "q99": [2.0, 5.0]}


def made_arrays(seed=0, dtype=np.float32):
    """A little model: stacked language layers, an action head, an embedding, a counter."""
    rng = np.random.default_rng(seed)
    shapes = {
        "PaliGemma/img/embedding/kernel": (5, 7),
        "PaliGemma/llm/layers/mlp/linear": (4, 6, 8),
        "action_out_proj/bias": (),
        "action_out_proj/kernel": (8, 3),
    }
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return {name: np.asarray(array) for name, array in arrays.items()}


def leaves_of(arrays):
    return {name: Leaf(name, array.shape, array.dtype) for name, array in arrays.items()}


def _fill(writer, arrays):
    for name, array in arrays.items():
        writer.write(name, 0, np.ascontiguousarray(array).reshape(-1))
    writer.close()


def write_torch(folder, arrays, *, stats=None, ties=None, shard_map=None):
    """A folder as openpi's PyTorch training leaves it."""
    folder.mkdir(parents=True)
    _fill(create_safetensors(folder, leaves_of(arrays), ties=ties or {}, shard_map=shard_map or {}), arrays)
    (folder / "config.json").write_text('{"action_dim": 3}')
    if stats is not None:
        write_stats(folder / "assets/lab/arm/norm_stats.json", stats)
    return folder


def write_jax(folder, arrays, *, stats=None, value=True):
    """A step folder as openpi's JAX training leaves it."""
    folder.mkdir(parents=True)
    entries = {}
    for name in arrays:
        keys = ["params", *name.split("/"), *(["value"] if value else [])]
        parts = [{"key": key, "key_type": 2} for key in keys]
        content = {"key_metadata": parts, "value_metadata": {"value_type": "jax.Array"}}
        entries[name] = TreeEntry(str(tuple(keys)), keys, content)
    content = {"use_zarr3": False, "store_array_data_equal_to_fill_value": True, "custom_metadata": None}
    _fill(OrbaxWriter(folder / "params", leaves_of(arrays), Tree(content, entries)), arrays)
    write_step_metadata(folder, ["params"])
    if stats is not None:
        write_stats(folder / "assets/lab/arm/norm_stats.json", stats)
    return folder


def write_octo(folder, arrays):
    """An Octo folder, as far as merging looks."""
    _fill(create_msgpack(folder / "100/default", leaves_of(arrays)), arrays)
    (folder / "config.json").write_text("{}")
    entry = {"mean": [0.0], "std": [1.0], "mask": [True]}
    statistics = {"action": entry, "proprio": entry, "num_transitions": 10, "num_trajectories": 2}
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    return folder


def write_torch_archive(folder, arrays):
    """A folder with the state dict that torch itself saves."""
    import torch

    folder.mkdir(parents=True)
    torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, folder / "model.pth")
    (folder / "config.json").write_text("{}")
    return folder


def write_stats(file, stats):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"norm_stats": {"state": stats, "actions": stats}}))


WRITERS = {"torch": write_torch, "jax": write_jax, "octo": write_octo, "torch_archive": write_torch_archive}


def read_arrays(path):
    """What `open_checkpoint` finds at a path, whole."""
    from xp.checkpoints.open import open_checkpoint

    reader = open_checkpoint(path).reader
    return {name: np.array(reader.read(name, 0, leaf.size)).reshape(leaf.shape) for name, leaf in reader.leaves.items()}


def tree_state(folder):
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


class Bowl:
    """|theta - best|^2 / 2 + floor over all weights: a quadratic whose optimum is known."""

    name = "bowl"

    def __init__(self, best, floor=0.0):
        self.best, self.floor, self.calls = best, floor, 0

    def loss(self, weights):
        self.calls += 1
        return self.floor + sum(0.5 * float(((weights[n] - b) ** 2).sum()) for n, b in self.best.items())

    def loss_and_gradient(self, weights):
        return self.loss(weights), {n: (weights[n] - b).astype(np.float32) for n, b in self.best.items()}


class Blind:
    """A loss without a gradient."""

    name = "blind"

    def loss(self, weights):
        return float(sum((array**2).sum() for array in weights.values()))

    def loss_and_gradient(self, weights):
        from xp.merging.method import without_gradient

        raise without_gradient(self.name)


def copy_of(folder, target):
    """A writable copy."""
    shutil.copytree(folder, target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target
