"""One update in torch as Lightning asks for it: seeded losses of a batch's parts, clipped gradient, scheduled rate."""

from collections.abc import Callable, Iterator

import lightning.pytorch as pl
import numpy as np
import torch

from xp.models.trainable import TorchTrainable
from xp.training.options import TrainerOptions
from xp.training.schedules import Schedule
from xp.training.torch.distributed import SingleProcess, full_tensor
from xp.training.torch.state import TorchState, training_mode
from xp.training.torch.types import Inputs, Parts


class TrainModule(pl.LightningModule):
    """The loss of each part of a batch, and what is done with the gradient once all parts are in it."""

    def __init__(
        self,
        trainable: TorchTrainable,
        state: TorchState,
        options: TrainerOptions,
        group: SingleProcess,
        *,
        schedule: Schedule,
        seed: int,
        done: Callable[[], int],
    ):
        """`done` tells the number of finished updates; `seed` is the run's."""
        super().__init__()
        self.module = trainable.module
        self.grad_norm = torch.zeros(())
        self.losses: list[torch.Tensor] = []
        self.parts: Parts = {}
        self._trainable, self._state, self._options, self._group = trainable, state, options, group
        self._schedule, self._seed, self._done = schedule, seed, done

    def configure_model(self) -> None:
        """The weights are spread already, where they are spread."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The state's optimiser, as it was restored."""
        return self._state.optimiser

    def on_train_start(self) -> None:
        """Lightning has just put everything into training mode."""
        training_mode(self.module)

    def training_step(self, batch: Inputs, batch_idx: int) -> torch.Tensor:
        """The loss of one part of a batch; every draw is a function of (seed, step, part)."""
        part = self._group.rank * self._options.accumulate + len(self.losses)
        torch.manual_seed(mixed_seed(self._seed, self._done(), part))
        loss, self.parts = self._trainable.loss(batch)
        self.losses.append(loss.detach())
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Note the gradient's global norm, and shorten it where `trainer.clip_norm` says so (Pascanu et al. 2013)."""
        weights = self._state.trained.values()
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        self.grad_norm = full_tensor(norm)
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grads_with_norm_(weights, gradient_clip_val, norm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the rate of this update."""
        rate = self._schedule(self._done())
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def outcome(self) -> tuple[torch.Tensor, torch.Tensor, Parts]:
        """Loss (mean over the parts of the batch), gradient norm and parts of the loss of the update just made."""
        losses, self.losses = self.losses, []
        loss, parts = self._group.mean(torch.stack(losses).mean(), self.parts)
        return loss, self.grad_norm, parts


class MicrobatchLoader:
    """The parts of all batches in order, as a data loader of unknown length."""

    def __init__(self, items: Iterator[list[Inputs]]):
        self._items = items

    def __iter__(self) -> Iterator[Inputs]:
        for parts in self._items:
            yield from parts


def mixed_seed(seed: int, step: int, part: int) -> int:
    """One 64-bit seed from three numbers, such that no two streams meet (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0] >> np.uint64(1))
