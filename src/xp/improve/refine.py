"""Learning from a policy's own attempts: some of its weights are moved by the objective of its training, in torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from xp.errors import UserError
from xp.models.policy import Batch, TorchPolicy


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How long and how fast: AdamW with a linear warm-up of min(100, steps / 10) updates and a cosine to zero."""

    steps: int
    lr: float
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of the update that follows `step` updates."""
        warm = min(100, self.steps // 10)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(self.steps - warm, 1)))


def refine(
    policy: TorchPolicy,
    batch_at: Callable[[int], Batch],
    names: Sequence[str],
    how: Refinement,
    *,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Move the weights called `names` by `how.steps` updates; all others stay. Gives each update's loss.

    Every draw is a function of (seed, step), so the same call repeats bit for bit.

    Args:
        policy: its module is changed.
        batch_at: the batch of a step, a pure function.
        names: weights to move.
        how: see `Refinement`.
        seed: of dropout.
        on_step: called after each update with (updates, loss); what it raises ends the refinement.

    Raises:
        UserError: the loss is no longer finite.
    """
    weights = dict(policy.module.named_parameters())
    moved = [weights[name] for name in names]
    groups = [
        {"params": [weights[name] for name in names if weights[name].ndim > 1], "weight_decay": how.weight_decay},
        {"params": [weights[name] for name in names if weights[name].ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=how.lr, betas=how.betas)
    before = {name: weight.requires_grad for name, weight in weights.items()}
    losses: list[float] = []
    try:
        for name, weight in weights.items():
            weight.requires_grad_(name in set(names))
        for step in range(how.steps):
            for group in optimiser.param_groups:
                group["lr"] = how.rate(step)
            loss, _ = policy.loss_with_graph(policy.prepare(batch_at(step)), seed + step)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(moved, how.clip_norm)
            optimiser.step()
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise UserError(
                    f"Learning from attempts diverged at update {step + 1} (loss {losses[-1]}). Type a smaller rate, "
                    f"for instance loop.lr={how.lr / 10:g}"
                )
            if on_step is not None:
                on_step(step + 1, losses[-1])
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(before[name])
    return losses
