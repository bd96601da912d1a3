"""Merging: arithmetic on named arrays, streamed from checkpoint files to a checkpoint file. Knows no framework."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xp.config.method_options import ByGroup, Choice, Number
    from xp.merging.api import merge
    from xp.merging.hooks import Hooks
    from xp.merging.job import Merged
    from xp.merging.merge_rules import Linear, MergeRule
    from xp.merging.method import MergeInputs, MergeMethod, MethodConfig
    from xp.merging.weights import weight_table

_LAZY = {
    "xp.config.method_options": ("ByGroup", "Choice", "Number"),
    "xp.merging.api": ("merge",),
    "xp.merging.hooks": ("Hooks",),
    "xp.merging.job": ("Merged",),
    "xp.merging.merge_rules": ("Linear", "MergeRule"),
    "xp.merging.method": ("MergeInputs", "MergeMethod", "MethodConfig"),
    "xp.merging.weights": ("weight_table",),
}
__all__ = [
    "ByGroup", "Choice", "Hooks", "Linear", "MergeInputs", "MergeMethod", "MergeRule", "Merged", "MethodConfig",
    "Number", "merge", "weight_table",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a method's table of options loads nothing heavy."""
    from importlib import import_module

    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'xp.merging' has no attribute '{name}'")
