# pyright: strict
"""Updates at other batch sizes, and what memory they take: how `trainer.batch_size=auto` is found.

This runs in a process of its own (`xp.tasks._lib.batch_probe`), so the weights, random numbers and data order of the
training cannot be touched by it. The updates are those of the training loop itself, at a learning rate of 0.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import NamedTuple

from xp.training.loggers import Logger, NoLogger
from xp.training.options import TrainerOptions
from xp.training.overfit import StepBatches
from xp.training.session import Session

UPDATES = 5
"""Updates per size: enough for the optimiser's state, for batches made ahead and for updates in flight."""


class DeviceMemory(NamedTuple):
    """What an accelerator held at most, and what it can hold for this process, in bytes."""

    name: str
    peak: int
    limit: int


def probe_options(options: TrainerOptions) -> TrainerOptions:
    """The options of a training as a probe takes them: updates alone."""
    return replace(options, steps=UPDATES, val_every=None, early_stopping_patience=None, profile_steps=None)


def no_rate(step: int) -> float:
    """The schedule of a probe: its updates change no weight."""
    return 0.0


class Probe(Session):
    """A session that makes updates and does nothing else: no log, checkpoint or validation."""

    def after_update(self, logger: Logger) -> None:
        """Do nothing."""

    def measure(self, batches: StepBatches) -> list[DeviceMemory]:
        """Make `UPDATES` updates; the memory that they took on each accelerator (none: the host's is what counts)."""
        self.batches, self.done = batches, 0
        self.waiting.clear()
        self.forget_peaks()
        self.train_all(NoLogger())
        self.sync()
        return self.peaks()

    @property
    @abstractmethod
    def unit(self) -> int:
        """Every batch size is a multiple of this."""

    @abstractmethod
    def forget_peaks(self) -> None:
        """Measure anew from here, where the framework can."""

    @abstractmethod
    def peaks(self) -> list[DeviceMemory]:
        """The most that each accelerator held."""
