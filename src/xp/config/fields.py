"""Keys of a configuration that have bounds: what is not said may not be left out."""

from dataclasses import field
from typing import Any

from omegaconf import MISSING


def one_of(*words: str, default: Any = MISSING) -> Any:
    """One of some words."""
    return field(default=default, metadata={"allowed": words})


def at_least(low: float, default: Any = MISSING) -> Any:
    """A number not below `low`."""
    return field(default=default, metadata={"min": low})


def between(low: float, high: float, default: Any = MISSING) -> Any:
    """A number from `low` to `high`, both included."""
    return field(default=default, metadata={"min": low, "max": high})
