"""The torch training loop: Lightning's Trainer makes the updates, `xp.training.session` everything around them.

Several processes, one for each device, run this loop in step. Rank 0 alone validates and writes; what it decides
(where to resume, when to stop) the others are told.
"""

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from xp.config.devices import check_accumulate
from xp.models.policy import Policy
from xp.models.trainable import TorchTrainable
from xp.runs import Run
from xp.training.checkpoints import Restored, read_checkpoint
from xp.training.loggers import Logger
from xp.training.options import TrainerOptions
from xp.training.overfit import StepBatches
from xp.training.partition import Partition
from xp.training.prefetch import prefetched
from xp.training.schedules import Schedule
from xp.training.session import Outcome, Session, Validate, train_session
from xp.training.storage import bytes_of, digest_of
from xp.training.torch.distributed import SingleProcess, full_tensor, process_group, shard_like
from xp.training.torch.state import (
    Average,
    fill_optimiser,
    make_optimiser,
    on_host,
    optimiser_arrays,
    partition_of,
    training_mode,
)

PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
"""Lightning's words: with bfloat16 the weights, gradients and optimiser stay float32, the computation does not."""


class TorchSession(Session):
    """One attempt at a training run: module, optimiser and moving average, and the Trainer that moves them on."""

    def __init__(
        self,
        run: Run,
        trainable: TorchTrainable,
        batches: StepBatches,
        validate: Validate | None,
        options: TrainerOptions,
        schedule: Schedule,
        seed: int,
        group: SingleProcess,
    ):
        # FSDP cuts weights that lie in the usual order alone.
        memory = torch.contiguous_format if group.is_sharded else torch.channels_last
        trainable.module.to(group.device, memory_format=memory)
        trainable.to_device(group.device)
        partition = partition_of(trainable, options)
        run.log(partition.describe() + (f", on {group.size} devices" if group.size > 1 else ""))
        frozen = {name: on_host(weight) for name, weight in partition.frozen.items()}
        devices = group.size if group.size > 1 else None
        must_agree = {"seed": seed, "frozen": digest_of(frozen) if frozen else None, "devices": devices}
        size = bytes_of(trainable.module.state_dict())
        super().__init__(run, batches, validate, options, schedule, must_agree, size)
        self.trainable, self.seed, self.group = trainable, seed, group
        partition = self._spread(partition)
        self.trained = partition.trained
        self.optimiser = make_optimiser(trainable, partition, options)
        if options.compile:
            trainable.module.compile()
            run.log("trainer.compile: torch.compile works on the model during the first step, for one minute or more.")
        self.compiling = time.monotonic() if options.compile else None
        self.average = Average(partition.trained, options.ema_decay) if options.ema_decay is not None else None
        self.buffers = _moving_buffers(trainable.module)
        self.names = {id(weight): name for name, weight in partition.trained.items()}
        self.loss_sum = torch.zeros((), device=group.device)
        self.loss_count = 0

    def train_all(self, logger: Logger) -> None:
        """Do the remaining steps."""
        if self.done >= self.options.steps:
            return
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            bar = stack.enter_context(self.run.progress(self.options.steps, "training", start=self.done))
            items = stack.enter_context(prefetched(self.inputs, self.done, self.options.steps))
            updates = TrainModule(self)
            around = SessionCallback(self, logger, bar)
            stack.callback(around.profile.close)
            try:
                self._trainer(around).fit(updates, train_dataloaders=MicrobatchLoader(items))
            except SIGTERMException:  # asked before Lightning's own handler was put aside: leave as after any step
                self.checkpoint()
                raise self.run.interrupted(f"asked to stop: checkpoint-{self.done} is written") from None

    def inputs(self, step: int) -> list[dict[str, Any]]:
        """The model's inputs for this rank's share of the update that follows `step` updates, in `accumulate` parts."""
        batch, accumulate = self.batches.at(step), self.options.accumulate
        count = len(batch["episode_index"])
        check_accumulate(count, accumulate, self.group.size)
        share = count // self.group.size
        if share < count:
            batch = _rows(batch, self.group.rank * share, (self.group.rank + 1) * share)
        prepared = self.trainable.prepare(batch)
        part = share // accumulate
        return [_rows(prepared, start, start + part) for start in range(0, share, part)]

    def restored(self) -> Restored | None:
        """The newest whole checkpoint of the run: rank 0 finds it, the others read it there."""
        found = super().restored() if self.group.is_main else None
        place = self.group.broadcast(self.checkpoints.path(found.step) if found else None)
        return found if self.group.is_main or place is None else read_checkpoint(place)

    def asked_to_stop(self) -> bool:
        """Whether somebody asked rank 0 to stop."""
        return self.broadcast(super().asked_to_stop())

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        return self.group.broadcast(value)

    def policy(self) -> Policy:
        """The policy that would be deployed now."""
        if self.average is None and not self.group.is_sharded:
            return self.trainable.policy(None)
        return self.trainable.policy(self._deployed())

    def evaluate(self, logger: Logger) -> bool:
        """Validate, then go on in training mode; False where rank 0 was asked to stop meanwhile."""
        is_whole = True
        if self.group.is_main:
            is_whole = super().evaluate(logger)
        else:
            self.sync()
            self._help_gather()
        training_mode(self.trainable.module)
        return self.broadcast(is_whole)

    def checkpoint(self) -> None:
        """Write a checkpoint of finite weights."""
        if self.group.is_main:
            super().checkpoint()
        else:
            self.sync()
            self.arrays()
            self._help_gather()

    def finish(self) -> Policy:
        """Write `final/`; returns the deployed policy (on rank 0; on the others one as it is in memory)."""
        if self.group.is_main:
            return super().finish()
        self._help_gather()
        return self.trainable.policy(None)

    def arrays(self) -> dict[str, Any]:
        """Everything that an update changes, on the host; nothing on ranks that only help to gather it."""
        return self._gathered(self._tensors())

    def stored_types(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each of `arrays`, without gathering them."""
        tensors = self._tensors()
        return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}

    def take_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy the arrays into weights, buffers, optimiser and average."""
        with torch.no_grad():
            for prefix, tensors in (("weights", self.trained), ("buffers", self.buffers), ("ema", self._averages())):
                for name, tensor in tensors.items():
                    tensor.copy_(shard_like(arrays[f"{prefix}/{name}"], tensor))
        fill_optimiser(self.optimiser, self.names, arrays)
        self.loss_sum = torch.from_numpy(np.array(arrays["loss_sum"])).to(self.group.device)
        self.loss_count = int(arrays["loss_count"])

    def loss_since_log(self) -> float:
        """The running loss."""
        return float(self.loss_sum) / self.loss_count

    def record_update(self, loss: torch.Tensor, grad_norm: torch.Tensor, parts: Mapping[str, Any]) -> None:
        """Take note of an update just made: moving average, running loss, outcome."""
        if self.fresh:
            self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        self.loss_sum += loss
        self.loss_count += 1
        if self.average is not None:
            self.average.update(self.done + 1)
        self.record_step(Outcome(loss, grad_norm, parts))
        if self.compiling is not None:
            seconds, self.compiling = time.monotonic() - self.compiling, None
            self.run.log(f"trainer.compile: the first step is made, {seconds:.0f} s after the model was (compiling it)")

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"weights/{name}": weight for name, weight in self.trained.items()}
        tensors |= {f"buffers/{name}": buffer for name, buffer in self.buffers.items()}
        tensors |= optimiser_arrays(self.optimiser, self.names)
        tensors |= {f"ema/{name}": value for name, value in self._averages().items()}
        return tensors | {"loss_sum": self.loss_sum, "loss_count": torch.tensor(self.loss_count, dtype=torch.int64)}

    def _averages(self) -> Mapping[str, torch.Tensor]:
        return self.average.values if self.average is not None else {}

    def _spread(self, partition: Partition) -> Partition:
        """The same weights after `strategy=fsdp` has spread them over the devices."""
        if not self.group.is_sharded:
            return partition
        module = self.trainable.module
        if self.group.is_main:  # makes the one whole copy, which is validated and saved, while the weights are whole
            self.trainable.policy(module.state_dict())
        self.group.shard(module)
        weights = dict(module.named_parameters())
        return Partition(
            trained={name: weights[name] for name in partition.trained},
            frozen={name: weights[name] for name in partition.frozen},
        )

    def _gathered(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Whole arrays on the host of rank 0; all ranks must ask for the same ones in the same order."""
        found = {}
        for name, tensor in tensors.items():
            full = full_tensor(tensor)
            if self.group.is_main:
                found[name] = on_host(full)
        return found

    def _deployed(self) -> dict[str, torch.Tensor]:
        """Weights and buffers to deploy; gathered on the host where they are spread."""
        state = {**self.trainable.module.state_dict(), **self._averages()}
        if not self.group.is_sharded:
            return state
        return {name: torch.from_numpy(array) for name, array in self._gathered(state).items()}

    def _help_gather(self) -> None:
        """What ranks beside rank 0 do while it asks for its policy."""
        if self.group.is_sharded:
            self._deployed()

    def _trainer(self, around: "SessionCallback") -> pl.Trainer:
        options, is_gpu = self.options, self.group.device.startswith("cuda")
        return pl.Trainer(
            accelerator="gpu" if is_gpu else "cpu",
            devices=self.group.size,
            strategy=self.group.strategy,
            precision=PRECISION[options.precision],  # type: ignore[arg-type]
            max_steps=options.steps - self.done,
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip_norm,
            deterministic="warn" if is_gpu else None,
            benchmark=False,
            callbacks=[around],
            plugins=[self.group.environment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            inference_mode=False,
            default_root_dir=str(self.run.folder),
        )


def train(
    run: Run,
    trainable: TorchTrainable,
    batches: StepBatches,
    *,
    validate: Validate | None,
    trainer: Mapping[str, Any],
    lr: Mapping[str, Any],
    seed: int,
    logger: Mapping[str, Any] | None = None,
) -> Policy:
    """Train a model in torch, by all the processes of the run; otherwise as `xp.training.train_any`, see there."""
    options = TrainerOptions.read(trainer)
    with process_group(run.ranks, options) as group:
        options.refuse_jax_only()

        def make(batches: StepBatches, schedule: Schedule) -> TorchSession:
            return TorchSession(run, trainable, batches, validate, options, schedule, seed, group)

        return train_session(run, batches, make, options=options, lr=lr, logger=logger if group.is_main else {})


class TrainModule(pl.LightningModule):
    """The update as Lightning asks for it: seeded loss, clipped gradient, scheduled rate."""

    def __init__(self, session: TorchSession):
        super().__init__()
        self.module = session.trainable.module
        self._session = [session]  # in a list: Lightning must not take what it holds for a submodule's
        self.grad_norm = torch.zeros(())
        self.losses: list[torch.Tensor] = []
        self.parts: Mapping[str, Any] = {}

    @property
    def session(self) -> TorchSession:
        """The session that this module works for."""
        return self._session[0]

    def configure_model(self) -> None:
        """The session has spread the weights already, where they are spread."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The session's optimiser, as it was restored."""
        return self.session.optimiser

    def on_train_start(self) -> None:
        """Lightning has just put everything into training mode."""
        training_mode(self.module)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """The loss of one part of a batch; every draw is a function of (seed, step, part)."""
        session = self.session
        part = session.group.rank * session.options.accumulate + len(self.losses)
        torch.manual_seed(_mixed(session.seed, session.done, part))
        loss, self.parts = session.trainable.loss(batch)
        self.losses.append(loss.detach())
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Note the gradient's global norm, and shorten it where `trainer.clip_norm` says so (Pascanu et al. 2013)."""
        gradients = [weight.grad for weight in self.session.trained.values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.grad_norm = full_tensor(norm)
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grads_with_norm_(self.session.trained.values(), gradient_clip_val, norm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the rate of this update."""
        rate = self.session.schedule(self.session.done)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def outcome(self) -> tuple[torch.Tensor, torch.Tensor, Mapping[str, Any]]:
        """Loss (mean over the parts of the batch), gradient norm and parts of the update just made."""
        losses, self.losses = self.losses, []
        loss, parts = self.session.group.mean(torch.stack(losses).mean(), self.parts)
        return loss, self.grad_norm, parts


class SessionCallback(pl.Callback):
    """Tells the session of each update, and lets it do what is due."""

    def __init__(self, session: TorchSession, logger: Logger, bar: Any):
        self.session, self.logger, self.bar = session, logger, bar
        self.tracer: Any = None
        self.on_sigterm = signal.getsignal(signal.SIGTERM)
        self.profile = session.profile(self._start_trace, self._stop_trace)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Put Lightning's own handler of SIGTERM aside: the run looks after that, and rank 0 tells the others."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Before a part of a batch."""
        if batch_idx % self.session.options.accumulate == 0:
            self.profile.before(self.session.done)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a part of a batch; with the last part the update was made."""
        if (batch_idx + 1) % self.session.options.accumulate:
            return
        session = self.session
        session.record_update(*pl_module.outcome())
        session.after_update(self.logger)
        if self.profile.after(session.done):
            session.say_profile()
        self.bar.advance(1, **session.shown())

    def _start_trace(self) -> None:
        self.tracer = torch.profiler.profile()
        self.tracer.start()

    def _stop_trace(self) -> None:
        self.tracer.stop()
        folder = self.session.run.folder / "profile"
        folder.mkdir(exist_ok=True)
        self.tracer.export_chrome_trace(str(folder / "trace.json"))


class MicrobatchLoader:
    """The parts of all batches in order, as a data loader of unknown length."""

    def __init__(self, items: Iterator[list[dict[str, Any]]]):
        self._items = items

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for parts in self._items:
            yield from parts


def _mixed(seed: int, step: int, part: int) -> int:
    """One 64-bit seed from three numbers, such that no two streams meet (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _rows(inputs: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {name: value[start:stop] for name, value in inputs.items()}


def _moving_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that an update may change: statistics of batch normalisations. Constants are left out."""
    found = {}
    for prefix, inner in module.named_modules():
        if isinstance(inner, torch.nn.modules.batchnorm._BatchNorm):
            found |= {f"{prefix}.{name}": buffer for name, buffer in inner.named_buffers(recurse=False)}
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advertisements and what torch.compile says of its own inner workings."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "torch._dynamo", "torch._inductor")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", module=r"torch\._(dynamo|inductor|functorch)")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
