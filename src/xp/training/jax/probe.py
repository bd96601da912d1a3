"""The probe of batch sizes for JAX models."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from xp.models.trainable import JaxTrainable
from xp.runs import Run
from xp.training.jax.loop import JaxSession
from xp.training.jax.sharding import Sharded
from xp.training.options import TrainerOptions
from xp.training.overfit import StepBatches
from xp.training.probe import DeviceMemory, Probe, no_rate, probe_options


class JaxProbe(Probe, JaxSession):
    """Updates in JAX, on all devices that the training uses."""

    @property
    def unit(self) -> int:
        """Each part of a batch is shared by all devices."""
        devices = self.placement.mesh.size if isinstance(self.placement, Sharded) else 1
        return self.options.accumulate * devices

    def forget_peaks(self) -> None:
        """JAX keeps its peak for ever: sizes are tried in ascending order."""

    def peaks(self) -> list[DeviceMemory]:
        """By the allocator's own statistics; the CPU has none."""
        found = [(device, device.memory_stats()) for device in jax.local_devices()]
        return [
            DeviceMemory(str(device), stats["peak_bytes_in_use"], stats["bytes_limit"])
            for device, stats in found
            if stats and "bytes_limit" in stats
        ]


@contextmanager
def probing(
    run: Run, trainable: JaxTrainable, batches: StepBatches, options: TrainerOptions, seed: int
) -> Iterator[JaxProbe]:
    """The probe of a training, while the block runs."""
    options.refuse_torch_only()
    yield JaxProbe(run, trainable, batches, None, probe_options(options), no_rate, seed)
