"""The JAX training loop with exact resume.

The order, at every step: update -> log -> validate -> checkpoint -> next. Evaluating and checkpointing read the
weights and nothing else, every random draw is a function of (seed, step), and the batch of a step is a function of the
step. So when these happen, or whether, cannot change what is learned, and a resumed run repeats the uninterrupted one
bit for bit.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import Any

import jax
import numpy as np

from xp.errors import UserError
from xp.models.policy import JaxTrainable, Policy
from xp.runs import Run
from xp.training.checkpoints import Checkpoints, Restored, save_policy
from xp.training.divergence import TrainingDiverged, diverged
from xp.training.loggers import Logger, open_logger
from xp.training.options import TrainerOptions
from xp.training.overfit import Overfit, StepBatches
from xp.training.partition import split
from xp.training.prefetch import prefetched
from xp.training.profiling import NoProfile, Profile
from xp.training.schedules import Schedule, make_schedule, short_of_peak
from xp.training.step import (
    Outcome,
    deployed,
    filled,
    initial_state,
    make_optimiser,
    make_step,
    names_and_arrays,
    seed_words,
)
from xp.training.storage import bytes_of, digest_of

Validate = Callable[[Policy, int], dict[str, float]]

IN_FLIGHT = 2
"""Updates that may wait on the device: enough to hide the host's work, few enough not to pile up inputs there."""


def train(
    run: Run,
    trainable: JaxTrainable,
    batches: StepBatches,
    *,
    validate: Validate | None,
    trainer: Mapping[str, Any],
    lr: Mapping[str, Any],
    seed: int,
    logger: Mapping[str, Any] | None = None,
) -> Policy:
    """Train, writing logs, checkpoints, `best/` and `final/` into the run's folder.

    Goes on from the newest whole checkpoint in the folder if there is one; log rows after it are dropped and come
    again.

    Args:
        run: the run; its `should_stop` is asked after every step.
        trainable: the model.
        batches: the training data, `at(step)` a pure function of the step.
        validate: gives metrics of a policy at a step (see `make_validator`), or None.
        trainer: the `trainer` section.
        lr: the `lr` section.
        seed: of every random draw in training.
        logger: the `logger` section; None takes the run's own. CSV logs are always written.

    Returns:
        The deployed policy after the last step: the moving average where one is kept.

    Raises:
        UserError: bad options, a freeze pattern that matches nothing, a full disk.
        TrainingDiverged: loss or gradient became NaN or infinite; the last good checkpoint is kept.
        RunInterrupted: somebody asked the run to stop; a checkpoint was written first.
    """
    options = TrainerOptions.read(trainer)
    if options.overfit_batches is not None:
        batches = Overfit(batches, options.overfit_batches)
    session = Session(run, trainable, batches, validate, options, make_schedule(lr, options.steps), seed)
    if note := short_of_peak(lr, options.steps):
        run.log(note)
    session.resume()
    section = run.config.get("logger") if logger is None else logger
    with closing(open_logger(run, section, start=session.done)) as values:
        session.train_all(values)
    return session.finish()


class Session:
    """One attempt at a training run: the state on the device and what is needed to move it on."""

    def __init__(
        self,
        run: Run,
        trainable: JaxTrainable,
        batches: StepBatches,
        validate: Validate | None,
        options: TrainerOptions,
        schedule: Schedule,
        seed: int,
    ):
        self.run, self.trainable, self.batches, self.validate = run, trainable, batches, validate
        self.options, self.schedule, self.seed = options, schedule, seed_words(seed)
        partition = split(trainable.weights, freeze=options.freeze, model_frozen=trainable.frozen)
        run.log(partition.describe())
        optimiser = make_optimiser(options, partition)
        self.state = initial_state(partition, optimiser, options)
        self.frozen = jax.device_put(partition.frozen)
        self.update = make_step(trainable.loss, optimiser, options)
        self.checkpoints = Checkpoints(run.folder, options.keep_checkpoints)
        self.must_agree = {"seed": seed, "frozen": digest_of(partition.frozen) if partition.frozen else None}
        self.policy_bytes = bytes_of(partition.trained) + bytes_of(partition.frozen)
        self.done = 0
        self.best: dict[str, Any] | None = None
        self.waiting: deque[tuple[int, Outcome]] = deque()
        self.fresh = True
        self.mean_loss = math.nan

    def resume(self) -> None:
        """Take up the newest whole checkpoint, if any, and cut the logs back to it."""
        restored = self.checkpoints.restore(self.run.log)
        if restored is not None:
            self._take(restored)
            self.run.log(f"going on from checkpoint-{self.done} of {self.options.steps} steps")
        self.run.training_log.truncate_after(self.done)
        self.run.validation_log.truncate_after(self.done)

    def train_all(self, logger: Logger) -> None:
        """Do the remaining steps, in the order stated at the top of this file."""
        steps, profile = self.options.steps, self._profile()
        with ExitStack() as stack:
            stack.callback(profile.close)
            bar = stack.enter_context(self.run.progress(steps, "training", unit="step", start=self.done))
            for inputs in stack.enter_context(prefetched(self.inputs, self.done, steps)):
                profile.before(self.done)
                self.step(inputs)
                if self.due(self.options.log_every) or self.done == steps:
                    self.log(logger)
                if self.validate and (self.due(self.options.eval_every) or self._last_validation()):
                    self.evaluate(logger)
                stop = self.run.should_stop()
                if self.due(self.options.checkpoint_every) or self.done == steps or stop:
                    self.checkpoint()
                if profile.after(self.done):
                    self.run.log(f"a trace of {self.options.profile_steps} steps is in {self.run.folder / 'profile'}")
                bar.advance(1, **self._shown())
                if stop and self.done < steps:
                    raise self.run.interrupted(f"asked to stop: checkpoint-{self.done} is written")

    def finish(self) -> Policy:
        """Write `final/`; returns the deployed policy."""
        policy = self.policy()
        save_policy(policy, self.run.folder / "final", self.policy_bytes, self._kept())
        return policy

    def inputs(self, step: int) -> dict[str, Any]:
        """The model's inputs for the update that follows `step` finished ones, on their way to the device."""
        prepared = self.trainable.prepare(self.batches.at(step))
        size = next(iter(prepared.values())).shape[0]
        if size % self.options.accumulate:
            divisor = math.gcd(size, self.options.accumulate)
            raise UserError(
                f"trainer.accumulate={self.options.accumulate} does not divide the batch of {size} windows into equal "
                f"parts. Give a divisor of {size}, for instance trainer.accumulate={divisor}."
            )
        return jax.device_put(prepared)

    def step(self, inputs: dict[str, Any]) -> None:
        """Dispatch one update, then look at an earlier one: the host stays ahead of the device."""
        rate = self.schedule(self.done)
        self.state, outcome = self.update(
            self.state, self.frozen, inputs, self.seed, np.uint32(self.done), np.float32(rate), np.bool_(self.fresh)
        )
        self.fresh = False
        self.done += 1
        self.waiting.append((self.done, outcome))
        if len(self.waiting) > IN_FLIGHT:
            self.check_oldest()

    def check_oldest(self) -> None:
        """Wait for the oldest update not yet looked at, and stop if it was not finite."""
        step, outcome = self.waiting.popleft()
        for name, value in (("loss", float(outcome.loss)), ("gradient's norm", float(outcome.grad_norm))):
            if not math.isfinite(value):
                raise self._diverged(step, f"{name} is {value}")

    def settle(self) -> Outcome | None:
        """Wait for every dispatched update; the last one's outcome."""
        last = self.waiting[-1][1] if self.waiting else None
        while self.waiting:
            self.check_oldest()
        return last

    def log(self, logger: Logger) -> None:
        """Write one row: the mean loss since the row before, and the rate of the last update."""
        outcome = self.settle()
        assert outcome is not None
        self.mean_loss = float(self.state.loss_sum) / int(self.state.loss_count)
        self.fresh = True
        rate, epoch = self.schedule(self.done - 1), self._epoch()
        self.run.training_log.append({"step": self.done, "epoch": epoch, "loss": self.mean_loss, "lr": rate})
        parts = {f"train/{name}": float(value) for name, value in outcome.parts.items()}
        gradient = float(outcome.grad_norm)
        logger.log(self.done, {**parts, "train/loss": self.mean_loss, "train/grad_norm": gradient, "train/lr": rate})

    def evaluate(self, logger: Logger) -> None:
        """Validate the deployed policy; keep it in `best/` if it is the best so far."""
        assert self.validate is not None
        self.settle()
        policy = self.policy()
        scores = self.validate(policy, self.done)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if math.isfinite(value))
        self.run.log(f"step {self.done}: {shown}")
        self.run.validation_log.append({"step": self.done, "epoch": self._epoch(), **scores})
        logger.log(self.done, {f"validation/{name}": value for name, value in scores.items()})
        value = scores.get(self.options.best_metric, math.nan)
        if self._is_better(value):
            self.best = {"step": self.done, "metric": self.options.best_metric, "value": value}
            save_policy(policy, self.run.folder / "best", self.policy_bytes, self._kept())

    def checkpoint(self) -> None:
        """Write a checkpoint of finite weights."""
        self.settle()
        for path, array in self.state.weights.items():
            if not np.isfinite(np.asarray(array)).all():
                raise self._diverged(self.done, f"update made the weight '{path}' infinite or NaN")
        meta = {
            **self.must_agree,
            "epoch": self._epoch(),
            "fresh": self.fresh,
            "mean_loss": self.mean_loss,
            "best": self.best,
        }
        best_step = self.best["step"] if self.best else None
        arrays = names_and_arrays(self.state)
        self.checkpoints.save(
            self.done, self.policy(), arrays, meta, policy_bytes=self.policy_bytes, best_step=best_step
        )

    def policy(self) -> Policy:
        """The policy that would be deployed now."""
        return self.trainable.policy(deployed(self.state, self.frozen))

    def due(self, every: int | None) -> bool:
        """Whether something done every `every` steps is due now."""
        return every is not None and self.done % every == 0

    def _take(self, restored: Restored) -> None:
        expected = {name: (tuple(a.shape), str(a.dtype)) for name, a in names_and_arrays(self.state).items()}
        found = {name: (a.shape, str(a.dtype)) for name, a in restored.arrays.items()}
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        agreed = {key: restored.meta.get(key) for key in self.must_agree}
        if agreed != self.must_agree or differing:
            changed = [key for key in agreed if agreed[key] != self.must_agree[key]] + differing[:3]
            more = f" and {len(differing) - 3} more arrays" if len(differing) > 3 else ""
            raise UserError(
                f"{self.run.folder} holds a checkpoint of another training run: they differ in {', '.join(changed)}"
                f"{more}. Give the options that run was started with, or start in a new folder."
            )
        self.state = filled(self.state, restored.arrays)
        self.done, meta = restored.step, restored.meta
        self.best, self.fresh, self.mean_loss = meta["best"], meta["fresh"], meta["mean_loss"]

    def _diverged(self, step: int, what: str) -> TrainingDiverged:
        return diverged(
            step=step,
            what=what,
            episodes=self.batches.at(step - 1)["episode_index"],
            kept=self.checkpoints.latest_name(),
            rate=self.schedule(step - 1),
            clip_norm=self.options.clip_norm,
        )

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        higher = self.options.best_metric.endswith("accuracy")
        return value > self.best["value"] if higher else value < self.best["value"]

    def _last_validation(self) -> bool:
        return self.done == self.options.steps and self.options.eval_every is not None

    def _shown(self) -> dict[str, float]:
        return {"loss": self.mean_loss} if math.isfinite(self.mean_loss) else {}

    def _epoch(self) -> Any:
        return self.batches.epoch(self.done)

    def _kept(self) -> str:
        last = self.checkpoints.latest_name()
        return f"{last} is complete" if last else "no checkpoint existed yet"

    def _profile(self) -> Profile | NoProfile:
        steps = self.options.profile_steps
        return Profile(self.run.folder / "profile", steps, self.done) if steps else NoProfile()
