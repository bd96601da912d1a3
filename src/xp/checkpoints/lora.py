"""LoRA weights inside a checkpoint, added to the weights that they adapt as those are read.

For Gemma's layers in Flax: w + scale * a @ b over the last two axes, except that the feed-forward layers take no scale
and `attn_vec_einsum` sums b over the heads (its einsum drops that axis). In torch they lie beside a weight [out, in]
with the axes that they have in Flax (`folded_tensors`). PEFT's adapters: see `peft_adapter`.
"""

import math
from collections.abc import Callable

import numpy as np

from xp.checkpoints.arrays import AnyArray, CorruptFileError, Leaf, Reader
from xp.checkpoints.folded import Change, Folded


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
        a, b = (_whole(self._reader, name) for name in self._names)
        if len(leaf.shape) > 2:
            a, b = a[first:last], b[first:last]
        if self._sum_heads:
            b = np.broadcast_to(b.sum(axis=1, keepdims=True), b.shape)
        return self._scale * (a @ b)


def folded_tree(reader: Reader, scale: float) -> Reader:
    """A checkpoint without LoRA leaves: they are folded in. The same reader if it has none.

    Raises:
        CorruptFileError: a LoRA leaf without its partner or its weight.
    """

    def target(name: str) -> str:
        stem = name.removesuffix("lora_a")
        return stem + "w" if stem.endswith("/") else stem.rstrip("_")

    def update(a: Leaf, b: Leaf, w: Leaf) -> _Update | None:
        left, right = a.shape, b.shape
        if len(left) < 2 or len(right) != len(left) or (*left[:-1], right[-1]) != w.shape:
            return None
        if (*right[:-2], left[-1]) != (*left[:-2], right[-2]):
            return None
        feed_forward = not a.name.endswith("/lora_a")
        heads = "attn_vec_einsum" in a.name
        return _Update(reader, a.name, b.name, 1.0 if feed_forward else scale, sum_heads=heads)

    return _folded(reader, "lora_a", target, update)


class _TensorUpdate:
    """The update of a weight [out, in] in torch, in float32: whole rows, see `folded_tensors`."""

    def __init__(self, reader: Reader, a: str, b: str, scale: float, *, joins: bool) -> None:
        self._reader, self._names, self._scale, self._joins = reader, (a, b), scale, joins

    def row(self, leaf: Leaf) -> int:
        """See `Change.row`."""
        return leaf.shape[1]

    def rows(self, base: Reader, leaf: Leaf, first: int, last: int) -> AnyArray:
        """See `Change.rows`."""
        size = leaf.shape[1]
        values = base.read(leaf.name, first, last).astype(np.float32)
        values += (self._scale * self._of(first // size, -(-last // size))).reshape(-1)
        return values

    def _of(self, first: int, last: int) -> AnyArray:
        """The update of rows [first, last)."""
        a, b = (_whole(self._reader, name) for name in self._names)
        if self._joins:
            a, b = a.reshape(-1, a.shape[-1]), b.sum(axis=0)
        if a.ndim == 2:
            return b.T[first:last] @ a.T
        height = b.shape[-1]
        start = first // height
        heads = [b[head].T @ a[head].T for head in range(start, -(-last // height))]
        return np.concatenate(heads)[first - start * height : last - start * height]


def folded_tensors(reader: Reader, scale: float) -> Reader:
    """A checkpoint in torch without `NAME.lora_a` and `NAME.lora_b`: they are folded into `NAME.weight` [out, in].

    a [in, r] and b [r, out] are of a feed-forward layer, which takes no scale; those of attention have heads in front:
    a [heads, in, r] and b [heads, r, width] of a weight that gives heads, a [heads, width, r] and b [heads, r, out] of
    the one that joins them, whose b is summed over the heads. The same reader if it has none.

    Raises:
        CorruptFileError: a LoRA tensor without its partner or its weight.
    """

    def update(a: Leaf, b: Leaf, w: Leaf) -> _TensorUpdate | None:
        products, has_heads = _products(a.shape, b.shape), len(a.shape) == 3
        if w.shape not in products:
            return None
        joins = has_heads and products[0] != w.shape
        return _TensorUpdate(reader, a.name, b.name, scale if has_heads else 1.0, joins=joins)

    return _folded(reader, ".lora_a", lambda name: f"{name.removesuffix('lora_a')}weight", update)


def _folded(
    reader: Reader,
    ending: str,
    target: Callable[[str], str],
    update: Callable[[Leaf, Leaf, Leaf], Change | None],
) -> Reader:
    """Fold every leaf that ends so, with its partner, into its target; `update` gives None where shapes do not fit."""
    updates: dict[str, Change] = {}
    drop: set[str] = set()
    for name in reader.leaves:
        if not name.endswith(ending):
            continue
        other, into = f"{name[:-1]}b", target(name)
        if other not in reader.leaves or into not in reader.leaves:
            raise CorruptFileError(f"{name} has no {other.rpartition('/')[2]} or no weight {into} beside it")
        a, b, w = (reader.leaves[part] for part in (name, other, into))
        change = update(a, b, w)
        if change is None:
            raise CorruptFileError(
                f"{name} {list(a.shape)} and {other} {list(b.shape)} do not make an update of {into} {list(w.shape)}"
            )
        updates[into] = change
        drop |= {name, other}
    return Folded(reader, updates, drop) if updates else reader


def _products(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of the weights [out, in] that two factors may update: giving heads first, then joining them."""
    if len(a) != len(b) or len(a) not in (2, 3) or a[-1] != b[-2]:
        return []
    if len(a) == 2:
        return [(b[1], a[0])]
    return [(a[0] * b[2], a[1]), (b[2], a[0] * a[1])] if a[0] == b[0] else []


def _whole(reader: Reader, name: str) -> AnyArray:
    """A leaf in its shape, as float32; a copy."""
    leaf = reader.leaves[name]
    return reader.read(name, 0, leaf.size).astype(np.float32).reshape(leaf.shape)
