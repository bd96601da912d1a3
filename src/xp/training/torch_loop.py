"""The torch training loop: Lightning's Trainer makes the updates, `xp.training.session` everything around them."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from xp.errors import UserError
from xp.models.policy import Policy, TorchTrainable
from xp.runs import Run
from xp.training.loggers import Logger, open_logger
from xp.training.options import TrainerOptions
from xp.training.overfit import Overfit, StepBatches
from xp.training.prefetch import prefetched
from xp.training.schedules import Schedule, make_schedule, short_of_peak
from xp.training.session import Outcome, Session, Validate, check_accumulate
from xp.training.storage import bytes_of, digest_of
from xp.training.torch_state import (
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
    """Train, writing logs, checkpoints, `best/` and `final/` into the run's folder.

    Arguments, results and errors are those of `xp.training.loop.train`; the weights of `trainable.module` are changed.
    """
    options = TrainerOptions.read(trainer)
    options.refuse_jax_only()
    if options.overfit_batches is not None:
        batches = Overfit(batches, options.overfit_batches)
    if note := short_of_peak(lr, options.steps):
        run.log(note)
    session = TorchSession(run, trainable, batches, validate, options, make_schedule(lr, options.steps), seed)
    session.resume()
    section = run.config.get("logger") if logger is None else logger
    with closing(open_logger(run, section, start=session.done)) as values:
        session.train_all(values)
    return session.finish()


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
    ):
        device = device_of(options)
        trainable.module.to(device, memory_format=torch.channels_last)
        trainable.place(device)
        partition = partition_of(trainable, options)
        run.log(partition.describe())
        frozen = {name: on_host(weight) for name, weight in partition.frozen.items()}
        must_agree = {"seed": seed, "frozen": digest_of(frozen) if frozen else None}
        size = bytes_of(trainable.module.state_dict())
        super().__init__(run, batches, validate, options, schedule, must_agree, size)
        self.trainable, self.seed, self.device = trainable, seed, device
        self.trained = partition.trained
        self.optimiser = make_optimiser(trainable, partition, options)
        if options.compile:
            trainable.module.compile()
        self.average = Average(partition.trained, options.ema_decay) if options.ema_decay is not None else None
        self.buffers = _moving_buffers(trainable.module)
        self.names = {id(weight): name for name, weight in partition.trained.items()}
        self.loss_sum = torch.zeros((), device=device)
        self.loss_count = 0

    def train_all(self, logger: Logger) -> None:
        """Do the remaining steps."""
        if self.done >= self.options.steps:
            return
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            bar = stack.enter_context(self.run.progress(self.options.steps, "training", start=self.done))
            items = stack.enter_context(prefetched(self.inputs, self.done, self.options.steps))
            updates = Updates(self)
            around = Around(self, logger, bar)
            stack.callback(around.profile.close)
            try:
                self._trainer(around).fit(updates, train_dataloaders=Parts(items, self.options.accumulate))
            except SIGTERMException:  # asked between two looks at `should_stop`: leave as then
                self.checkpoint()
                raise self.run.interrupted(f"asked to stop: checkpoint-{self.done} is written") from None

    def inputs(self, step: int) -> list[dict[str, Any]]:
        """The model's inputs for the update that follows `step` finished ones, in `accumulate` parts."""
        prepared = self.trainable.prepare(self.batches.at(step))
        size = len(next(iter(prepared.values())))
        check_accumulate(size, self.options.accumulate)
        part = size // self.options.accumulate
        return [_rows(prepared, start, start + part) for start in range(0, size, part)]

    def policy(self) -> Policy:
        """The policy that would be deployed now."""
        if self.average is None:
            return self.trainable.policy(None)
        return self.trainable.policy({**self.trainable.module.state_dict(), **self.average.values})

    def evaluate(self, logger: Logger) -> None:
        """Validate, then go on in training mode."""
        super().evaluate(logger)
        training_mode(self.trainable.module)

    def arrays(self) -> dict[str, Any]:
        """Everything that an update changes, on the host."""
        tensors = {f"weights/{name}": weight for name, weight in self.trained.items()}
        tensors |= {f"buffers/{name}": buffer for name, buffer in self.buffers.items()}
        tensors |= optimiser_arrays(self.optimiser, self.names)
        if self.average is not None:
            tensors |= {f"ema/{name}": value for name, value in self.average.values.items()}
        tensors |= {"loss_sum": self.loss_sum, "loss_count": torch.tensor(self.loss_count, dtype=torch.int64)}
        return {name: on_host(tensor) for name, tensor in tensors.items()}

    def take_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy the arrays into weights, buffers, optimiser and average."""
        with torch.no_grad():
            for prefix, tensors in (("weights", self.trained), ("buffers", self.buffers), ("ema", self._averages())):
                for name, tensor in tensors.items():
                    tensor.copy_(torch.from_numpy(np.array(arrays[f"{prefix}/{name}"])))
        fill_optimiser(self.optimiser, self.names, arrays)
        self.loss_sum = torch.from_numpy(np.array(arrays["loss_sum"])).to(self.device)
        self.loss_count = int(arrays["loss_count"])

    def loss_since_log(self) -> float:
        """The running loss."""
        return float(self.loss_sum) / self.loss_count

    def updated(self, loss: torch.Tensor, grad_norm: torch.Tensor, parts: Mapping[str, Any]) -> None:
        """Take note of an update just made: moving average, running loss, outcome."""
        if self.fresh:
            self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        self.loss_sum += loss
        self.loss_count += 1
        if self.average is not None:
            self.average.update(self.done + 1)
        self.noted(Outcome(loss, grad_norm, parts))

    def _averages(self) -> Mapping[str, torch.Tensor]:
        return self.average.values if self.average is not None else {}

    def _trainer(self, around: "Around") -> pl.Trainer:
        options = self.options
        return pl.Trainer(
            accelerator="gpu" if self.device == "cuda" else "cpu",
            devices=1,
            precision=PRECISION[options.precision],  # type: ignore[arg-type]
            max_steps=options.steps - self.done,
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip_norm,
            deterministic="warn" if self.device == "cuda" else None,
            benchmark=False,
            callbacks=[around],
            plugins=[LightningEnvironment()],
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


class Updates(pl.LightningModule):
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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The session's optimiser, as it was restored."""
        return self.session.optimiser

    def on_train_start(self) -> None:
        """Lightning has just put everything into training mode."""
        training_mode(self.module)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """The loss of one part of a batch; every draw is a function of (seed, step, part)."""
        session = self.session
        torch.manual_seed(_mixed(session.seed, session.done, len(self.losses)))
        loss, self.parts = session.trainable.loss(batch)
        self.losses.append(loss.detach())
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Note the gradient's global norm, and shorten it where `trainer.clip_norm` says so (Pascanu et al. 2013)."""
        gradients = [weight.grad for weight in self.session.trained.values() if weight.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grads_with_norm_(self.session.trained.values(), gradient_clip_val, self.grad_norm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the rate of this update."""
        rate = self.session.schedule(self.session.done)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def outcome(self) -> tuple[torch.Tensor, torch.Tensor, Mapping[str, Any]]:
        """Loss (mean over the parts of the batch), gradient norm and parts of the update just made."""
        losses, self.losses = self.losses, []
        return torch.stack(losses).mean(), self.grad_norm, self.parts


class Around(pl.Callback):
    """Tells the session of each update, and lets it do what is due."""

    def __init__(self, session: TorchSession, logger: Logger, bar: Any):
        self.session, self.logger, self.bar = session, logger, bar
        self.tracer: Any = None
        self.profile = session.profile(self._start_trace, self._stop_trace)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Before a part of a batch."""
        if batch_idx % self.session.options.accumulate == 0:
            self.profile.before(self.session.done)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a part of a batch; with the last part the update was made."""
        if (batch_idx + 1) % self.session.options.accumulate:
            return
        session = self.session
        session.updated(*pl_module.outcome())
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


class Parts:
    """The parts of all batches in order, as a data loader of unknown length."""

    def __init__(self, items: Iterator[list[dict[str, Any]]], accumulate: int):
        self._items, self._accumulate = items, accumulate

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for parts in self._items:
            yield from parts


def device_of(options: TrainerOptions) -> str:
    """The device to train on: "cpu" or "cuda".

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if options.device == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.device=gpu: torch sees no GPU here. Type trainer.device=auto to take what there is.")
    return "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"


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
    """Without Lightning's advertisements and its advice on data loaders, which are not used here."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
