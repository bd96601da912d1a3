"""Checks before any data is read: whether the checkpoints have the same weights, all differences in one message."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xp.checkpoints.arrays import AnyArray, AnyDType, Leaf, Reader
from xp.checkpoints.open import Checkpoint
from xp.errors import UserError, did_you_mean, join_names

POLICIES = ("error", "intersect", "base")
SHOWN = 40
"""Differences that a message lists; merge.json has them all where a policy lets them pass."""


@dataclass(frozen=True)
class Difference:
    """One weight in which an input differs from the first one."""

    name: str
    kind: str
    """missing, extra, shape, dtype or tie."""
    text: str


def differences(first: Reader, other: Reader) -> list[Difference]:
    """Everything in which the headers of `other` differ from those of `first`."""
    found = [*_one_sided(first, other, "missing"), *_one_sided(other, first, "extra")]
    for name in first.leaves.keys() & other.leaves.keys():
        mine, theirs = first.leaves[name], other.leaves[name]
        if mine.shape != theirs.shape:
            found.append(Difference(name, "shape", f"{list(theirs.shape)} instead of {list(mine.shape)}"))
        if mine.dtype != theirs.dtype:
            found.append(Difference(name, "dtype", f"{theirs.dtype.name} instead of {mine.dtype.name}"))
    return sorted(found, key=lambda difference: (difference.kind, difference.name))


def _one_sided(there: Reader, here: Reader, kind: str) -> Iterator[Difference]:
    """Weights of `there` that `here` lacks; those it ties to another weight are a difference of their own."""
    for name, leaf in there.leaves.items():
        if name in here.leaves:
            continue
        if here.ties.get(name) in here.leaves:
            side = "tied to" if kind == "missing" else "stored on its own instead of tied to"
            yield Difference(name, "tie", f"{side} {here.ties[name]}")
        else:
            yield Difference(name, kind, f"{leaf.dtype.name} {list(leaf.shape)}")


def agree(
    inputs: Sequence[Checkpoint], policy: str, *, base: Checkpoint | None = None, dtype: AnyDType | None = None
) -> tuple[list[Reader], dict[str, Leaf], list[str]]:
    """What will be merged, under a policy for differences.

    Args:
        inputs: all inputs; the base, where a method has one, among them.
        policy: `error` refuses any difference; `intersect` keeps the weights that all have in one shape; `base` has
            the weights of the base (of the first input without one), which also stands in for what an input lacks.
        base: see `policy`.
        dtype: of the float weights that are written; None keeps those of the first input.

    Returns:
        Readers that all have the leaves, the leaves as they will be written, and lines for the record.

    Raises:
        UserError: another format, or differences that the policy refuses: all of them in one message.
    """
    if policy not in POLICIES:
        raise UserError(f"merge.mismatch={policy}: allowed are {join_names(POLICIES)}{did_you_mean(policy, POLICIES)}")
    _same_format(inputs)
    reference = base if policy == "base" and base is not None else inputs[0]
    found = {str(c.path): differences(reference.reader, c.reader) for c in inputs if c is not reference}
    lines = [f"{path}: {d.kind} {d.name}: {d.text}" for path, listed in found.items() for d in listed]
    if lines and policy == "error":
        raise UserError(_message(reference.path, lines))
    readers, leaves = _patched(inputs, reference, policy)
    _floats_meet_floats(readers, leaves)
    if dtype is not None:
        leaves = {n: Leaf(n, leaf.shape, dtype) if leaf.is_float else leaf for n, leaf in leaves.items()}
    return readers, leaves, lines


def _patched(inputs: Sequence[Checkpoint], reference: Checkpoint, policy: str) -> tuple[list[Reader], dict[str, Leaf]]:
    leaves = dict(reference.reader.leaves)
    if policy == "intersect":
        leaves = {
            name: leaf
            for name, leaf in leaves.items()
            if all(name in c.reader.leaves and c.reader.leaves[name].shape == leaf.shape for c in inputs)
        }
        if not leaves:
            raise UserError(
                f"{join_names(str(c.path) for c in inputs)} have no weight in common: they are different models. "
                "Give checkpoints of one model."
            )
        return [c.reader for c in inputs], leaves
    return [Patched(c.reader, reference.reader) for c in inputs], leaves


class Patched:
    """A reader in which the reference stands in for leaves that are missing or have another shape."""

    def __init__(self, reader: Reader, reference: Reader) -> None:
        self.files, self.ties, self.leaves = reader.files, reader.ties, reference.leaves
        self._reader = reader
        self._source: dict[str, tuple[Reader, str]] = {}
        for name, leaf in reference.leaves.items():
            own = name if name in reader.leaves else reader.ties.get(name, name)
            fits = own in reader.leaves and reader.leaves[own].shape == leaf.shape
            self._source[name] = (reader, own) if fits else (reference, name)

    def alignment(self, name: str) -> int:
        """See `Reader.alignment`."""
        reader, own = self._source[name]
        return reader.alignment(own)

    def requires_sequential_read(self, name: str) -> bool:
        """See `Reader.requires_sequential_read`."""
        reader, own = self._source[name]
        return reader.requires_sequential_read(own)

    def read(self, name: str, start: int, stop: int) -> AnyArray:
        """See `Reader.read`."""
        reader, own = self._source[name]
        values = reader.read(own, start, stop)
        return values if reader is self._reader else values.copy()  # the reference's buffer is read into by others


def _same_format(inputs: Sequence[Checkpoint]) -> None:
    kinds = {c.kind for c in inputs}
    if len(kinds) > 1:
        raise UserError(
            "The checkpoints are of different formats: "
            + "; ".join(f"{c.path} is {c.kind}" for c in inputs)
            + ". Convert them to one format first; names and layouts of the weights differ."
        )


def _floats_meet_floats(readers: Sequence[Reader], leaves: Mapping[str, Leaf]) -> None:
    for name, leaf in leaves.items():
        kinds = {reader.leaves[name].is_float for reader in readers if name in reader.leaves}
        if len(kinds) > 1:
            raise UserError(
                f"{name} is a float in one checkpoint and {leaf.dtype.name} in another: they cannot be averaged. "
                "Leave that checkpoint out, or write it again with the same types."
            )


def _message(reference: Path, lines: Sequence[str]) -> str:
    shown = "\n  ".join(lines[:SHOWN])
    more = f"\n  ... and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return (
        f"The checkpoints do not have the same weights. Against {reference}, {len(lines)} differences:\n"
        f"  {shown}{more}\n"
        "Merge checkpoints of one model, or choose what to do: merge.mismatch=intersect keeps what all share, "
        "merge.mismatch=base takes the weights of the base (or first checkpoint) where another lacks them."
    )


def check_places(inputs: Sequence[Checkpoint], output: Path, *, overwrite: bool) -> None:
    """Refuse an output that is an input, lies in one, holds one, or exists.

    Raises:
        UserError: says which.
    """
    out = output.absolute().resolve()
    for c in inputs:
        place = c.place.absolute().resolve()
        inside = {place, *(p.absolute().resolve() for p in (c.sidecar, c.base, *c.layers) if p is not None)}
        if any(out in (there, *there.parents) for there in inside) or inside & {out, *out.parents}:
            raise UserError(
                f"The output {output} is the place of the input {c.path}: merging would destroy it. "
                "Give another folder: merge.output=FOLDER"
            )
    if output.exists() and not overwrite:
        raise UserError(
            f"{output} exists already. Nothing was changed. Give another folder (merge.output=FOLDER), or replace it: "
            "merge.overwrite=true"
        )
