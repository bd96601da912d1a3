"""LoRA weights folded into the weights they adapt, as a reader: PEFT adapters, and openpi's leaves.

PEFT (adapter_config.json, adapter_model.safetensors): W + alpha / rank * B @ A for A [rank, in], B [out, rank], with
alpha / sqrt(rank) for rslora. openpi (models/lora.py): w + scale * a @ b over the last two axes, except that the
feed-forward layers take no scale and `attn_vec_einsum` sums b over the heads (its einsum drops that axis).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xp.merging.formats.base import Damaged, Leaf, Reader
from xp.merging.formats.safetensors import open_safetensors
from xp.merging.ranges import rounded_up

CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


class Folded:
    """A reader whose adapted leaves are read whole layers at a time and have their update added."""

    def __init__(self, reader: Reader, updates: "Mapping[str, _Update]", drop: set[str]) -> None:
        """`updates` by the name of the leaf they adapt; `drop`: leaves that are no longer there on their own."""
        self.files, self.ties = reader.files, dict(reader.ties)
        self.leaves: Mapping[str, Leaf] = {name: leaf for name, leaf in reader.leaves.items() if name not in drop}
        self._reader, self._updates = reader, updates

    def grain(self, name: str) -> int:
        """An adapted leaf's rows are read together: the update is a product of whole matrices."""
        grain = self._reader.grain(name)
        if name not in self._updates:
            return grain
        row = self._updates[name].row(self.leaves[name])
        return rounded_up(grain, row)

    def in_order(self, name: str) -> bool:
        """As the weights that are adapted."""
        return self._reader.in_order(name)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """See `Reader.read`."""
        if name not in self._updates:
            return self._reader.read(name, start, stop)
        leaf, update = self.leaves[name], self._updates[name]
        row = update.row(leaf)
        first, last = start // row * row, min(rounded_up(stop, row), leaf.size)
        values = self._reader.read(name, first, last).astype(np.float32)
        values += update.of(leaf, first // row, -(-last // row)).reshape(-1)
        return values[start - first : stop - first].astype(leaf.dtype)


class _Update:
    """scale * a @ b for some leading rows of a leaf, read from wherever a and b are."""

    def __init__(self, reader: Reader, a: str, b: str, scale: float, *, sum_heads: bool = False) -> None:
        self._reader, self._names, self._scale, self._sum_heads = reader, (a, b), scale, sum_heads

    def row(self, leaf: Leaf) -> int:
        """Elements that one step of the leading axis spans: a whole matrix where the leaf is one."""
        return leaf.size if len(leaf.shape) <= 2 else math.prod(leaf.shape[1:])

    def of(self, leaf: Leaf, first: int, last: int) -> np.ndarray:
        """The update of leading rows [first, last), or of a whole matrix."""
        a, b = (self._whole(name) for name in self._names)
        if len(leaf.shape) > 2:
            a, b = a[first:last], b[first:last]
        if self._sum_heads:
            b = np.broadcast_to(b.sum(axis=1, keepdims=True), b.shape)
        return self._scale * (a @ b)

    def _whole(self, name: str) -> np.ndarray:
        leaf = self._reader.leaves[name]
        return self._reader.read(name, 0, leaf.size).astype(np.float32).reshape(leaf.shape)


def folded_tree(reader: Reader, scale: float) -> Reader:
    """An openpi checkpoint without LoRA leaves: they are folded in. The same reader if it has none.

    Raises:
        Damaged: a LoRA leaf without its partner or its weight.
    """
    updates: dict[str, _Update] = {}
    drop: set[str] = set()
    for name in reader.leaves:
        if not name.endswith("lora_a"):
            continue
        stem, other = name[: -len("lora_a")], name[:-1] + "b"
        target = stem + "w" if stem.endswith("/") else stem.rstrip("_")
        if other not in reader.leaves or target not in reader.leaves:
            raise Damaged(f"{name} has no {other.rpartition('/')[2]} or no weight {target} beside it")
        feed_forward = not stem.endswith("/")
        heads = "attn_vec_einsum" in stem
        updates[target] = _Update(reader, name, other, 1.0 if feed_forward else scale, sum_heads=heads)
        drop |= {name, other}
    return Folded(reader, updates, drop) if updates else reader


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (folder / CONFIG).is_file() and (folder / ADAPTER).is_file()


def adapter_base(folder: Path) -> Path | None:
    """The local folder that the adapter's configuration names as its base, if there is one."""
    named = _config(folder).get("base_model_name_or_path")
    return Path(named) if named and Path(named).is_dir() else None


def open_adapter(folder: Path, base: Reader) -> Reader:
    """The base's weights with the adapter folded in.

    Raises:
        Damaged: not a LoRA, or an adapted weight that the base lacks or has in another shape.
    """
    config = _config(folder)
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise Damaged(
            f"{CONFIG} describes a {config.get('peft_type')} adapter (DoRA: {config.get('use_dora')}), no LoRA"
        )
    adapter = open_safetensors((folder / ADAPTER,))
    updates: dict[str, _Update] = {}
    for name in adapter.leaves:
        if not name.endswith(".lora_A.weight"):
            continue
        stem = name[: -len(".lora_A.weight")]
        target, other = stem.removeprefix(_PREFIX) + ".weight", stem + ".lora_B.weight"
        rank = adapter.leaves[name].shape[0]
        wanted = (adapter.leaves[other].shape[0] if other in adapter.leaves else 0, adapter.leaves[name].shape[1])
        if target not in base.leaves or base.leaves[target].shape != wanted:
            raise Damaged(f"the adapter's {target} {wanted} is not in the base with that shape")
        pattern = {**dict.fromkeys([stem], config.get("lora_alpha", rank)), **(config.get("alpha_pattern") or {})}
        alpha = next((value for key, value in reversed(list(pattern.items())) if stem.endswith(key)), rank)
        updates[target] = _Update(adapter, other, name, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    if not updates:
        raise Damaged(f"{ADAPTER} holds no lora_A weights")
    folded = Folded(base, updates, set())
    folded.files = (folder, *base.files)
    return folded


def _config(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise Damaged(f"{CONFIG} cannot be read ({error})") from error
