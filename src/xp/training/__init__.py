"""Training: a loop in JAX and one in torch, schedules, checkpoints, validation, loggers. Heavy imports wait for use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xp.training.action_layout import ActionLayout as ActionLayout
    from xp.training.divergence import TrainingDiverged as TrainingDiverged
    from xp.training.frameworks import train_any as train_any
    from xp.training.jax.loop import train as train
    from xp.training.schedules import make_schedule as make_schedule
    from xp.training.validation import make_validator as make_validator

__all__ = ["ActionLayout", "TrainingDiverged", "make_schedule", "make_validator", "train", "train_any"]

_LAZY = {
    "ActionLayout": "action_layout",
    "TrainingDiverged": "divergence",
    "make_schedule": "schedules",
    "make_validator": "validation",
    "train": "jax.loop",
    "train_any": "frameworks",
}


def __getattr__(name: str) -> object:
    """Import the public names when they are first used: `train` brings JAX, the others do not."""
    if name not in _LAZY:
        raise AttributeError(f"module 'xp.training' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"xp.training.{_LAZY[name]}"), name)
