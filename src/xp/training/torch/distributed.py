"""The processes that train one torch model together, and what they exchange.

Each works on an equal part of every batch. What a process draws is a function of (seed, step, part of the batch), so N
devices draw what one device draws that works through the batch in N parts.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import sleep

import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, distributed
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from xp.errors import UserError, join_names
from xp.models.torch_device import torch_threads
from xp.runs.execution.ranks import Ranks
from xp.training.options import TrainerOptions
from xp.training.torch.types import Parts

PATIENCE = timedelta(days=7)
"""Rank 0 validates and writes while the others wait. A process that is gone is noticed by its closed connection."""


class SingleProcess:
    """One process with one device: every exchange gives back what it was given."""

    rank, size, is_main, is_sharded = 0, 1, True, False

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @property
    def strategy(self) -> Strategy | str:
        """Lightning's strategy."""
        return "auto"

    def environment(self) -> LightningEnvironment:
        """What Lightning asks about the processes."""
        return LightningEnvironment()

    def broadcast[T](self, value: T) -> T:
        """Rank 0's `value`, on every rank."""
        return value

    def mean(self, loss: Tensor, parts: Parts) -> tuple[Tensor, Parts]:
        """The mean over the ranks of a loss and of its parts."""
        return loss, parts

    def shard(self, module: torch.nn.Module) -> None:
        """Spread the weights of a module over the devices, where they are spread."""


class ProcessGroup(SingleProcess):
    """One of several processes, connected."""

    def __init__(self, ranks: Ranks, options: TrainerOptions, device: str, control: distributed.ProcessGroup) -> None:
        super().__init__(device)
        self.rank, self.size, self.is_main = ranks.rank, ranks.size, ranks.rank == 0
        self.is_sharded = options.strategy == "fsdp"
        self._control = control

    @property
    def strategy(self) -> Strategy | str:
        """Lightning's strategy."""
        if self.is_sharded:
            return ModelParallelStrategy(data_parallel_size=self.size, tensor_parallel_size=1, timeout=PATIENCE)
        # A weight that no loss reaches has no gradient, as on one device; without this DDP waits for it.
        return DDPStrategy(find_unused_parameters=True, timeout=PATIENCE)

    def environment(self) -> LightningEnvironment:
        """What Lightning asks about the processes: they are there already."""
        return _Started(self.rank, self.size)

    def broadcast[T](self, value: T) -> T:
        """Rank 0's `value` (anything that can be pickled), on every rank."""
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def mean(self, loss: Tensor, parts: Parts) -> tuple[Tensor, Parts]:
        """The mean over the ranks of a loss and of its parts."""
        values = torch.stack([loss, *(torch.as_tensor(part, device=loss.device).to(loss) for part in parts.values())])
        distributed.all_reduce(values)
        mean, *others = (values / self.size).unbind()
        return mean, dict(zip(parts, others))

    def shard(self, module: torch.nn.Module) -> None:
        """Spread every weight over the devices along its first axis (ZeRO stage 3: Rajbhandari et al. 2020).

        The module gathers them for its forward and backward pass; what the optimiser and a moving average keep is
        spread with them.
        """
        if self.is_sharded:
            refuse_scalars(module)
            fully_shard(module, mesh=init_device_mesh(self.device.split(":")[0], (self.size,)))


class _Started(LightningEnvironment):
    """Processes that somebody has started and connected."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self._rank, self._size = rank, size

    @property
    def creates_processes_externally(self) -> bool:
        """True: Lightning starts none."""
        return True

    def world_size(self) -> int:
        """How many there are."""
        return self._size

    def global_rank(self) -> int:
        """This one's number."""
        return self._rank

    def local_rank(self) -> int:
        """This one's number on this machine, the only one."""
        return self._rank


@contextmanager
def process_group(ranks: Ranks, options: TrainerOptions) -> Iterator[SingleProcess]:
    """Connect the processes of a run while the block runs.

    Raises:
        UserError: a device that is not there, or another process that is gone.
    """
    device = device_of(options, ranks.rank if ranks.size > 1 else None)
    if ranks.size == 1:
        yield SingleProcess(device)
        return
    store = TCPStore(
        "127.0.0.1",
        ranks.port,
        ranks.size,
        is_master=ranks.rank == 0,
        timeout=PATIENCE,
        wait_for_workers=False,
        master_listen_fd=ranks.listener,
    )
    _meet(store, ranks)
    is_gpu = device.startswith("cuda")
    where = torch.device(device) if is_gpu else None
    if is_gpu:
        torch.cuda.set_device(device)
    with torch_threads(max(1, torch.get_num_threads() // ranks.size)):
        distributed.init_process_group(
            "nccl" if is_gpu else "gloo",
            store=store,
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=PATIENCE,
            device_id=where,
        )
        try:
            control = distributed.new_group(backend="gloo", timeout=PATIENCE)
            assert isinstance(control, distributed.ProcessGroup)
            yield ProcessGroup(ranks, options, device, control)
        finally:
            distributed.destroy_process_group()


def _meet(store: TCPStore, ranks: Ranks) -> None:
    """Wait until every rank is here. Rank 0 looks after the others meanwhile: nothing else would say that one died."""
    store.set(f"rank {ranks.rank}", "here")
    everyone = [f"rank {rank}" for rank in range(ranks.size)]
    while not store.check(everyone):
        ranks.look()
        sleep(0.02)


def device_of(options: TrainerOptions, rank: int | None = None) -> str:
    """The device to train on: "cpu", "cuda", or for one of several ranks "cuda:RANK".

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError(
            "trainer.accelerator=gpu: torch sees no GPU here. Type trainer.accelerator=auto to take what there is."
        )
    if options.accelerator == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return "cuda" if rank is None else f"cuda:{rank}"


_PROCESSES_PER_CORE = 4
"""More than that would only take memory from one another."""


def count_devices(options: TrainerOptions) -> int:
    """How many processes `trainer.devices` asks for: `auto` is every GPU there is, and one without a GPU.

    Raises:
        UserError: more GPUs than there are, or on the CPU more processes than cores could ever serve.
    """
    is_cpu = device_of(options) == "cpu"
    if options.devices == "auto":
        return 1 if is_cpu else torch.cuda.device_count()
    count = int(options.devices)
    cores = os.cpu_count() or 1
    if is_cpu and count > _PROCESSES_PER_CORE * cores:
        raise UserError(
            f"trainer.devices={count}: on the CPU each device is a process, and this machine has {cores} cores. Type "
            f"trainer.devices={cores} or less."
        )
    if not is_cpu and count > torch.cuda.device_count():
        raise UserError(
            f"trainer.devices={count}: torch sees {torch.cuda.device_count()} GPUs here. Type trainer.devices="
            f"{torch.cuda.device_count()}, or trainer.devices=auto"
        )
    return count


def refuse_scalars(module: torch.nn.Module) -> None:
    """Refuse to spread weights that have no axis to cut.

    Raises:
        UserError: naming the first ones.
    """
    scalars = [name for name, weight in module.named_parameters() if weight.ndim == 0]
    if scalars:
        raise UserError(
            f"trainer.strategy=fsdp spreads every weight along its first axis; {join_names(scalars[:3])} "
            f"{'is a single number' if len(scalars) == 1 else 'and others are single numbers'}. Type "
            "trainer.strategy=ddp"
        )


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor with all its parts, gathered from the devices where it is spread; then every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(array: np.ndarray, tensor: Tensor) -> Tensor:
    """An array as a tensor that lies as `tensor` does: on its device, in its order of memory, spread as it is."""
    given = torch.from_numpy(np.array(array))
    if isinstance(tensor, DTensor):  # every rank has the whole array and keeps its own part
        return distribute_tensor(given.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
    # A contiguous copy would make every later update convert between two orders of memory.
    return torch.empty_like(tensor).copy_(given)
