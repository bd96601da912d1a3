"""What keeps named weights from being those of a network, in words: one comparison for the folders of every family."""

from collections.abc import Mapping, Sequence

from xp.errors import some
from xp.foreign.text import printable

SINGULAR = ("lacks", "has no place for", "has another shape of")
"""What is said of a file; see `misfit`."""
PLURAL = ("lack", "have no place for", "have another shape of")
"""What is said of several."""


def misfit(
    found: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    verbs: tuple[str, str, str] = SINGULAR,
) -> str:
    """Which weights are missing, too many or of another shape; empty where all fit.

    Args:
        found: shape by name of the weights that are there.
        wanted: shape by name of the network's.
        verbs: for the missing ones, those too many, and those of another shape.
    """
    both = found.keys() & wanted.keys()
    shapes = [f"{name} {list(found[name])} for {list(wanted[name])}" for name in both if found[name] != wanted[name]]
    parts = zip(verbs, (wanted.keys() - both, found.keys() - both, shapes), strict=True)
    return "; ".join(f"{verb} {shown(sorted(names))}" for verb, names in parts if names)


def shown(names: Sequence[str]) -> str:
    """Some of the names, as they can be printed."""
    return printable(some(names, 4), 400)
