"""The probe of batch sizes for torch models."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xp.models.trainable import TorchTrainable
from xp.runs import Run
from xp.training.options import TrainerOptions
from xp.training.overfit import StepBatches
from xp.training.probe import DeviceMemory, Probe, no_rate, probe_options
from xp.training.torch.distributed import process_group
from xp.training.torch.loop import TorchSession


class TorchProbe(Probe, TorchSession):
    """Updates in torch, on one device."""

    @property
    def unit(self) -> int:
        """A batch is worked through in equal parts."""
        return self.options.accumulate

    def forget_peaks(self) -> None:
        """Give back what earlier sizes left in the cache of the allocator."""
        if self.group.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> list[DeviceMemory]:
        """What the allocator took from the device: what is cut to pieces there counts, and others' memory does not."""
        if not self.group.device.startswith("cuda"):
            return []
        free, _ = torch.cuda.mem_get_info()
        limit = free + torch.cuda.memory_reserved()
        return [DeviceMemory(torch.cuda.get_device_name(), torch.cuda.max_memory_reserved(), limit)]


@contextmanager
def probing(
    run: Run, trainable: TorchTrainable, batches: StepBatches, options: TrainerOptions, seed: int
) -> Iterator[TorchProbe]:
    """The probe of a training, while the block runs."""
    options.refuse_jax_only()
    with process_group(run.ranks, options) as group:
        yield TorchProbe(run, trainable, batches, None, probe_options(options), no_rate, seed, group)
