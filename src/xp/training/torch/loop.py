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
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.nn import Parameter

from xp.config.devices import check_accumulate
from xp.json_types import JSONObject
from xp.models.policy import Policy
from xp.models.trainable import TorchTrainable
from xp.runs import Run
from xp.runs.execution.progress import Progress
from xp.training.checkpoints import Restored, read_checkpoint
from xp.training.digest import digest_of
from xp.training.disk import bytes_of
from xp.training.loggers import Logger
from xp.training.options import TrainerOptions
from xp.training.overfit import StepBatches
from xp.training.partition import Partition
from xp.training.prefetch import prefetched
from xp.training.schedules import Schedule
from xp.training.session import Outcome, Session, Validate, train_session
from xp.training.torch.distributed import SingleProcess, process_group
from xp.training.torch.state import Average, TorchState, bits_on_host, make_optimiser, partition_of, training_mode
from xp.training.torch.step import MicrobatchLoader, TrainModule
from xp.training.torch.types import Inputs, Parts

PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
"""Lightning's words: with bfloat16 the weights, gradients and optimiser stay float32, the computation does not."""

INITIAL_WINDOWS = 32
"""The windows of the first batch, at most, that a model fills its frozen numbers from."""


class TorchSession(Session):
    """One attempt at a training run: the state, and the Trainer that moves it on."""

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
        trainable.module.to(group.device, memory_format=memory)  # pyright: ignore[reportCallIssue] - not in its stubs
        trainable.to_device(group.device)
        _initialise(run, trainable, batches, group)
        partition = partition_of(trainable, options)
        run.log(partition.describe() + (f", on {group.size} devices" if group.size > 1 else ""))
        frozen = {name: bits_on_host(weight) for name, weight in partition.frozen.items()}
        devices = group.size if group.size > 1 else None
        must_agree = {"seed": seed, "frozen": digest_of(frozen) if frozen else None, "devices": devices}
        size = bytes_of(trainable.module.state_dict())
        super().__init__(run, batches, validate, options, schedule, must_agree, size)
        self.trainable, self.seed, self.group = trainable, seed, group
        partition = self._spread(partition)
        optimiser = make_optimiser(trainable, partition, options)
        if options.compile:
            trainable.module.compile()
            run.log("trainer.compile: torch.compile works on the model during the first step, for one minute or more.")
        self.compiling = time.monotonic() if options.compile else None
        decay, trained = options.ema_decay, partition.trained
        average = None if decay is None else Average(trained, decay, options.ema_warmup)
        self.state = TorchState(trainable.module, trained, optimiser, average, group, trainable.filled_buffers)

    def train_all(self, logger: Logger) -> None:
        """Do the remaining steps."""
        if self.done >= self.options.steps or self.ended:
            return
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            bar = stack.enter_context(self.run.progress(self.options.steps, "training", start=self.done))
            items = stack.enter_context(prefetched(self.inputs, self.done, self.options.steps))
            module = self._module()
            around = SessionCallback(self, module, logger, bar)
            stack.callback(around.profile.close)
            try:
                self._trainer(around).fit(module, train_dataloaders=MicrobatchLoader(items))
            except SIGTERMException:  # asked before Lightning's own handler was put aside: leave as after any step
                self.checkpoint()
                raise self.run.interrupted(f"asked to stop: checkpoint-{self.done} is written") from None

    def inputs(self, step: int) -> list[Inputs]:
        """The model's inputs for this rank's share of the update that follows `step` updates, in `accumulate` parts."""
        batch, accumulate = self.batches.at(step), self.options.accumulate
        count = len(np.asarray(batch["episode_index"]))
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

    def broadcast[T](self, value: T) -> T:
        """Rank 0's `value`, on every rank."""
        return self.group.broadcast(value)

    def policy(self) -> Policy:
        """The policy that would be deployed now."""
        return self.trainable.policy(self.state.deployed())

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

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that an update changes, on the host; nothing on ranks that only help to gather it."""
        return self.state.arrays()

    def stored_types(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each of `arrays`, without gathering them."""
        return self.state.types()

    def take_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy the arrays into the state."""
        self.state.take(arrays)

    def loss_since_log(self) -> float:
        """The running loss of the state."""
        return self.state.mean_loss()

    def record_update(self, loss: torch.Tensor, grad_norm: torch.Tensor, parts: Parts) -> None:
        """Take note of an update just made: moving average, running loss, outcome."""
        self.state.record(loss, self.done + 1, fresh=self.fresh)
        self.record_step(Outcome(loss, grad_norm, parts))
        if self.compiling is not None:
            seconds, self.compiling = time.monotonic() - self.compiling, None
            self.run.log(f"trainer.compile: the first step is made, {seconds:.0f} s after the model was (compiling it)")

    def _spread(self, partition: Partition[Parameter]) -> Partition[Parameter]:
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

    def _help_gather(self) -> None:
        """What ranks beside rank 0 do while it asks for its policy."""
        if self.group.is_sharded:
            self.state.deployed()

    def _module(self) -> TrainModule:
        return TrainModule(
            self.trainable,
            self.state,
            self.options,
            self.group,
            schedule=self.schedule,
            seed=self.seed,
            done=lambda: self.done,
        )

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
    trainer: JSONObject,
    lr: JSONObject,
    seed: int,
    logger: JSONObject | None = None,
) -> Policy:
    """Train a model in torch, by all the processes of the run; otherwise as `xp.training.train_any`, see there."""
    options = TrainerOptions.read(trainer)
    with process_group(run.ranks, options) as group:
        options.refuse_jax_only()

        def make(batches: StepBatches, schedule: Schedule) -> TorchSession:
            return TorchSession(run, trainable, batches, validate, options, schedule, seed, group)

        return train_session(run, batches, make, options=options, lr=lr, logger=logger if group.is_main else {})


class SessionCallback(pl.Callback):
    """Tells the session of each update, and lets it do what is due."""

    def __init__(self, session: TorchSession, module: TrainModule, logger: Logger, bar: Progress):
        self.session, self.module, self.logger, self.bar = session, module, logger, bar
        self.on_sigterm = signal.getsignal(signal.SIGTERM)
        self.tracer: torch.profiler.profile | None = None
        self.profile = session.profile(self._start_trace, self._stop_trace)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put Lightning's own handler of SIGTERM aside: the run looks after that, and rank 0 tells the others."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Inputs, batch_idx: int
    ) -> None:
        """Before a part of a batch."""
        if batch_idx % self.session.options.accumulate == 0:
            self.profile.before(self.session.done)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Inputs, batch_idx: int
    ) -> None:
        """After a part of a batch; with the last part the update was made."""
        if (batch_idx + 1) % self.session.options.accumulate:
            return
        session = self.session
        session.record_update(*self.module.outcome())
        session.after_update(self.logger)
        if self.profile.after(session.done):
            session.log_profile()
        self.bar.advance(1, **session.progress_values())
        if session.ended:
            trainer.should_stop = True

    def _start_trace(self) -> None:
        self.tracer = torch.profiler.profile()
        self.tracer.start()

    def _stop_trace(self) -> None:
        assert self.tracer is not None
        self.tracer.stop()
        folder = self.session.run.folder / "profile"
        folder.mkdir(exist_ok=True)
        self.tracer.export_chrome_trace(str(folder / "trace.json"))


def _initialise(run: Run, trainable: TorchTrainable, batches: StepBatches, group: SingleProcess) -> None:
    """Let the model fill what it reckons from data: from the same windows, however many devices share a batch."""
    if trainable.initialise is None:
        return
    inputs = _rows(trainable.prepare(batches.at(0)), 0, INITIAL_WINDOWS)
    run.log(trainable.initialise(move_data_to_device(inputs, torch.device(group.device))))


def _rows(inputs: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {name: value[start:stop] for name, value in inputs.items()}


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
