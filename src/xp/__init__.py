# pyright: strict
"""xp: robot-policy fine-tuning experiments whose numbers can be trusted. `import xp` loads nothing heavy."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xp.commands import collect, evaluate, sweep, train
    from xp.data import open_dataset
    from xp.merging import merge
    from xp.models import load_policy
    from xp.runs import load_run

__version__ = "0.1.0"
__all__ = ["collect", "evaluate", "load_policy", "load_run", "merge", "open_dataset", "sweep", "train"]

_LAZY = {
    "load_policy": ("xp.models", "load_policy"),
    "open_dataset": ("xp.data", "open_dataset"),
    "load_run": ("xp.runs", "load_run"),
    "merge": ("xp.merging", "merge"),
    "collect": ("xp.commands", "collect"),
    "train": ("xp.commands", "train"),
    "evaluate": ("xp.commands", "evaluate"),
    "sweep": ("xp.commands", "sweep"),
}


def __getattr__(name: str) -> object:
    """Import the public names when they are first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'xp' has no attribute '{name}'")
    import importlib

    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(module), attribute)
