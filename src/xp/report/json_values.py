"""Values of the JSON that runs wrote, by their keys: nothing where a key is missing or holds something else."""

from collections.abc import Mapping, Sequence
from typing import TypeGuard

from xp.json_types import JSON, JSONObject


def section(value: JSON, *path: str) -> JSONObject:
    """The object at a path of keys inside `value`; an empty one where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def is_number(value: JSON) -> TypeGuard[int | float]:
    """Whether a value is a number (no truth value, which Python counts as one)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def real(value: JSON) -> float | None:
    """A number as it is, or None."""
    return float(value) if is_number(value) else None


def count(value: JSON) -> int | None:
    """A whole number, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def items(value: JSON) -> Sequence[JSON]:
    """The entries of a list; none where `value` is something else, a text too."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def reals(value: JSON) -> list[float | None]:
    """The numbers of a list, None for what is no number."""
    return [real(each) for each in items(value)]
