"""LoRA weights inside a JAX checkpoint, added to the weights that they adapt as those are read.

For Gemma's layers in Flax: w + scale * a @ b over the last two axes, except that the feed-forward layers take no scale
and `attn_vec_einsum` sums b over the heads (its einsum drops that axis). PEFT's adapters: see `peft_adapter`.
"""

import math

import numpy as np

from xp.checkpoints.arrays import AnyArray, CorruptFileError, Leaf, Reader
from xp.checkpoints.folded import Folded


class _Update:
    """scale * a @ b for some leading rows of a leaf, read from wherever a and b are."""

    def __init__(self, reader: Reader, a: str, b: str, scale: float, *, sum_heads: bool = False) -> None:
        self._reader, self._names, self._scale, self._sum_heads = reader, (a, b), scale, sum_heads

    def row(self, leaf: Leaf) -> int:
        """Elements that one step of the leading axis spans: a whole matrix where the leaf is one."""
        return leaf.size if len(leaf.shape) <= 2 else math.prod(leaf.shape[1:])

    def rows(self, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
        """See `Change.rows`."""
        row = self.row(leaf)
        values = base.read(leaf.name, first, last).astype(np.float32)
        values += self._of(leaf, first // row, -(-last // row)).reshape(-1)
        return values

    def _of(self, leaf: Leaf, first: int, last: int) -> AnyArray:
        """The update of leading rows [first, last), or of a whole matrix."""
        a, b = (self._whole(name) for name in self._names)
        if len(leaf.shape) > 2:
            a, b = a[first:last], b[first:last]
        if self._sum_heads:
            b = np.broadcast_to(b.sum(axis=1, keepdims=True), b.shape)
        return self._scale * (a @ b)

    def _whole(self, name: str) -> AnyArray:
        leaf = self._reader.leaves[name]
        return self._reader.read(name, 0, leaf.size).astype(np.float32).reshape(leaf.shape)


def folded_tree(reader: Reader, scale: float) -> Reader:
    """A checkpoint without LoRA leaves: they are folded in. The same reader if it has none.

    Raises:
        CorruptFileError: a LoRA leaf without its partner or its weight.
    """
    updates: dict[str, _Update] = {}
    drop: set[str] = set()
    for name in reader.leaves:
        if not name.endswith("lora_a"):
            continue
        stem, other = name[: -len("lora_a")], name[:-1] + "b"
        target = stem + "w" if stem.endswith("/") else stem.rstrip("_")
        if other not in reader.leaves or target not in reader.leaves:
            raise CorruptFileError(f"{name} has no {other.rpartition('/')[2]} or no weight {target} beside it")
        a, b, w = (reader.leaves[part].shape for part in (name, other, target))
        if len(a) < 2 or len(b) != len(a) or (*a[:-1], b[-1]) != w or (*b[:-2], a[-1]) != (*a[:-2], b[-2]):
            raise CorruptFileError(
                f"{name} {list(a)} and {other} {list(b)} do not make an update of {target} {list(w)}"
            )
        feed_forward = not stem.endswith("/")
        heads = "attn_vec_einsum" in stem
        updates[target] = _Update(reader, name, other, 1.0 if feed_forward else scale, sum_heads=heads)
        drop |= {name, other}
    return Folded(reader, updates, drop) if updates else reader
