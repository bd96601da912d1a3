"""Merging: arithmetic on named arrays, streamed from checkpoint files to a checkpoint file. Knows no framework."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xp.merging.api import Hooks, Merged, merge

__all__ = ["Hooks", "Merged", "merge"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'xp.merging' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("xp.merging.api"), name)
