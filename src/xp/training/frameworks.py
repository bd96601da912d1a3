"""The loop that fits a model: the one of the framework it is written in."""

from typing import Any

from xp.models.policy import Policy, TorchTrainable, Trainable
from xp.runs import Run
from xp.training.overfit import StepBatches


def train_any(run: Run, trainable: Trainable, batches: StepBatches, **options: Any) -> Policy:
    """Train with `xp.training.loop.train` or `xp.training.torch_loop.train`, which take the same options."""
    if isinstance(trainable, TorchTrainable):
        from xp.training.torch_loop import train as train_torch

        return train_torch(run, trainable, batches, **options)
    from xp.training.loop import train

    return train(run, trainable, batches, **options)
