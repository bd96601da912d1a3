# pyright: strict
"""Which weights are trained: freeze patterns match whole names, and one that matches nothing is refused."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np

from xp.errors import UserError, join_names


@runtime_checkable
class HasShape(Protocol):
    """An array of whatever framework."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...


_SEPARATOR = re.compile(r"[/.]")


@dataclass(frozen=True)
class Partition[Weight: HasShape]:
    """Weights that are trained and weights that are not, by path: joined by '/' (JAX), or torch's dotted name."""

    trained: dict[str, Weight]
    frozen: dict[str, Weight]

    def describe(self) -> str:
        """One line for the log: how many numbers are trained and how many are frozen."""
        trained = f"{count(self.trained):,} weights in {_arrays(self.trained)} are trained"
        return trained + (f", {count(self.frozen):,} in {_arrays(self.frozen)} are frozen" if self.frozen else "")


def count(flat: Mapping[str, HasShape]) -> int:
    """Number of numbers in the arrays."""
    return sum(int(np.prod(array.shape)) for array in flat.values())


def matching(paths: Sequence[str], patterns: Iterable[str], key: str) -> set[str]:
    """Paths that at least one pattern matches (case-sensitive fnmatch on the whole path: `*` also crosses '/').

    Args:
        paths: paths of all weights.
        patterns: fnmatch patterns.
        key: the configuration key the patterns came from, for the message.

    Raises:
        UserError: a pattern that matches nothing, with patterns close to it that do.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {path for path in paths if fnmatchcase(path, pattern)}
        if not matched:
            raise UserError(_matches_nothing(pattern, paths, key))
        found |= matched
    return found


def split[Weight: HasShape](
    weights: Mapping[str, Weight],
    *,
    freeze: Sequence[str] = (),
    model_frozen: Sequence[str] = (),
    presets: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Partition[Weight]:
    """Split weights by the user's freeze patterns and those of the model itself.

    Args:
        weights: all weights, by path.
        freeze: patterns, or names of presets.
        model_frozen: patterns of what the model itself never trains.
        presets: patterns by name, as the model gives them.

    Raises:
        UserError: a pattern matches nothing, or nothing is left to train.
    """
    paths = sorted(weights)
    frozen = matching(paths, model_frozen, "the model's own frozen weights")
    frozen |= matching(paths, [pattern for word in freeze for pattern in presets.get(word, [word])], "trainer.freeze")
    if len(frozen) == len(paths):
        raise UserError(
            f"trainer.freeze=[{join_names(freeze)}] freezes all {len(paths)} arrays of weights, so nothing is left to "
            "train. Take a narrower pattern, or trainer.freeze=[] to train everything."
        )
    return Partition(
        trained={path: weights[path] for path in paths if path not in frozen},
        frozen={path: weights[path] for path in paths if path in frozen},
    )


def _arrays(flat: Mapping[str, HasShape]) -> str:
    return "1 array" if len(flat) == 1 else f"{len(flat)} arrays"


def _matches_nothing(pattern: str, paths: Sequence[str], key: str) -> str:
    core = pattern.strip("*")
    inside = f"*{core}*"
    hits = sum(fnmatchcase(path, inside) for path in paths)
    if core and hits:
        advice = f"A pattern is compared with the whole path: '{inside}' matches {hits} of them."
    else:
        names = [_SEPARATOR.split(path) for path in paths]
        parts = sorted({part for name in names for part in name})
        close = difflib.get_close_matches(_SEPARATOR.split(core)[-1] or core, parts, n=3, cutoff=0.4)
        tops = sorted({name[0] for name in names})
        near = [f"'*{part}*' ({sum(part in name for name in names)} weights)" for part in close]
        advice = f"Close to it: {join_names(near)}. At the top there are: {join_names(tops[:8])}."
    return (
        f"The pattern '{pattern}' of {key} matches none of the {len(paths)} weights, so it would do nothing. {advice} "
        f"Paths look like '{paths[0]}'."
    )
