"""The loop that fits a model: the one of the framework it is written in."""

import importlib
from typing import Any

from xp.models.policy import Policy, TorchTrainable, Trainable
from xp.runs import Run
from xp.training.overfit import StepBatches

LOOPS = {"octo": "jax.loop", "lerobot": "torch.loop"}
"""The module that trains a family's models."""


def import_loop(family: str) -> None:
    """Import what `train_any` will for models of this family, the framework included."""
    importlib.import_module(f"xp.training.{LOOPS[family]}")


def train_any(run: Run, trainable: Trainable, batches: StepBatches, **options: Any) -> Policy:
    """Train in the session of the trainable's framework; options are those of `xp.training.session.Session.train`."""
    if isinstance(trainable, TorchTrainable):
        from xp.training.torch.loop import TorchSession

        return TorchSession.train(run, trainable, batches, **options)
    from xp.training.jax.loop import JaxSession

    return JaxSession.train(run, trainable, batches, **options)
