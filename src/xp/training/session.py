# pyright: strict
"""What a training run does around its updates, in either framework: logs, checkpoints, validation, resuming.

The order, at every step: update -> log -> checkpoint -> validate -> next. Evaluating and checkpointing read the
weights and nothing else, every random draw is a function of (seed, step), and the batch of a step is a function of the
step. So when these happen, or whether, cannot change what is learned, and a resumed run repeats the uninterrupted one
bit for bit. A validation is long and is left where somebody asks the run to stop; a run that goes on from a checkpoint
begins with the validation of that step, unless validation_log.csv has its row (written last: `best/` is up to date).
`xp.training.jax.loop` (JAX) and `xp.training.torch.loop` (Lightning) are two thin loops around it.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import NamedTuple, SupportsFloat

import numpy as np

from xp.checkpoints.arrays import AnyArray, Array
from xp.errors import UserError
from xp.json_types import JSONObject
from xp.models.policy import Policy
from xp.runs import Run
from xp.training.checkpoints import Checkpoints, Restored, save_policy
from xp.training.divergence import TrainingDiverged, diverged
from xp.training.early_stopping import higher_is_better, waited_for
from xp.training.loggers import Logger, open_logger
from xp.training.options import TrainerOptions
from xp.training.overfit import Overfit, StepBatches
from xp.training.profiling import NoProfile, Profile
from xp.training.schedules import Schedule, make_schedule, warmup_note
from xp.training.validation import Validate, ValidationStoppedError

IN_FLIGHT = 2
"""Updates that may wait on the device: enough to hide the host's work, few enough not to pile up inputs there."""


class Outcome(NamedTuple):
    """What an update reports: scalars, possibly still on their way on the device, so that steps need not wait."""

    loss: SupportsFloat
    grad_norm: SupportsFloat
    parts: Mapping[str, SupportsFloat]


class Best(NamedTuple):
    """The best validation so far, as a checkpoint tells it: its step, and the value of `trainer.best_metric` there."""

    step: int
    metric: str
    value: float

    @classmethod
    def read(cls, facts: JSONObject) -> "Best":
        """What a checkpoint tells."""
        step, metric, value = facts["step"], facts["metric"], facts["value"]
        assert isinstance(step, int) and isinstance(metric, str) and isinstance(value, int | float)
        return cls(step, metric, value)


def train_session(
    run: Run,
    batches: StepBatches,
    make: Callable[[StepBatches, Schedule], "Session"],
    *,
    options: TrainerOptions,
    lr: JSONObject,
    logger: JSONObject | None,
) -> Policy:
    """Train in the session that `make` gives: what the `train` of both frameworks is, see `xp.training.train_any`.

    Args:
        run: the run; its `should_stop` is asked after every step.
        batches: the training data, `at(step)` a pure function of the step.
        make: gives the session from the batches as `trainer.overfit_batches` has them, and from the schedule.
        options: the `trainer` section as read.
        lr: the `lr` section.
        logger: the `logger` section; None takes the run's own.
    """
    if options.overfit_batches is not None:
        batches = Overfit(batches, options.overfit_batches)
    if note := warmup_note(lr, options.steps):
        run.log(note)
    session = make(batches, make_schedule(lr, options.steps))
    session.resume()
    section = run.config.get("logger") if logger is None else logger
    with closing(open_logger(run, section, start=session.done)) as values:
        session.make_up_validation(values)
        session.train_all(values)
    return session.finish()


class Session(ABC):
    """One attempt at a training run: how far it is, and what is due after each update.

    A framework's subclass keeps weights, optimiser and moving average, moves them on by one update (noting its outcome
    with `record_step`), and gives them as named arrays. `train_session` takes it from the first step to the last.
    """

    def __init__(
        self,
        run: Run,
        batches: StepBatches,
        validate: Validate | None,
        options: TrainerOptions,
        schedule: Schedule,
        must_agree: JSONObject,
        policy_bytes: int,
    ):
        """`must_agree` is what a checkpoint must share with this run; `policy_bytes` about what a policy takes."""
        self.run, self.batches, self.validate = run, batches, validate
        self.options, self.schedule = options, schedule
        self.must_agree, self.policy_bytes = dict(must_agree), policy_bytes
        self.checkpoints = Checkpoints(run.folder, options.keep_checkpoints, options.record_answers)
        self.done = 0
        self.best: Best | None = None
        self.waiting: deque[tuple[int, Outcome]] = deque()
        self.fresh = True
        """Whether the running loss of the log starts anew with the next update."""
        self.mean_loss = math.nan
        self.ended = False
        """Whether the training is over before its last step: see `trainer.early_stopping_patience`."""
        options.refuse_patience_without(validate is not None)

    @abstractmethod
    def train_all(self, logger: Logger) -> None:
        """Do the remaining steps."""

    @abstractmethod
    def policy(self) -> Policy:
        """The policy that would be deployed now: the moving average where one is kept."""

    @abstractmethod
    def arrays(self) -> Mapping[str, Array]:
        """Everything that an update changes, by name; the trained weights are named `weights/...`."""

    def stored_types(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each of `arrays`."""
        return {name: (tuple(array.shape), _type(array)) for name, array in self.arrays().items()}

    @abstractmethod
    def take_arrays(self, arrays: Mapping[str, AnyArray]) -> None:
        """Go on from arrays that `arrays` gave, of the same names, shapes and types."""

    @abstractmethod
    def loss_since_log(self) -> float:
        """The mean loss of the updates since the last row of the log; asked when every update is finished."""

    def resume(self) -> None:
        """Take up the newest whole checkpoint, if any, and cut the logs back to it."""
        restored = self.restored()
        if restored is not None:
            self._take(restored)
            self.run.log(f"continuing from checkpoint-{self.done} of {self.options.steps} steps")
        self.run.training_log.truncate_after(self.done)
        self.run.validation_log.truncate_after(self.done)

    def restored(self) -> Restored | None:
        """The newest whole checkpoint of the run, if any."""
        return self.checkpoints.restore(self.run.log)

    def asked_to_stop(self) -> bool:
        """Whether somebody asked the run to stop."""
        return self.run.should_stop()

    def broadcast[T](self, value: T) -> T:
        """`value` as the process that decides has it, where several train together."""
        return value

    def record_step(self, outcome: Outcome) -> None:
        """Count an update that was made or dispatched, and look at an earlier one: the host stays ahead."""
        self.fresh = False
        self.done += 1
        self.waiting.append((self.done, outcome))
        if len(self.waiting) > IN_FLIGHT:
            self.check_oldest()

    def after_update(self, logger: Logger) -> None:
        """What is due after the update just noted, in the order stated at the top of this file.

        Raises:
            RunInterrupted: somebody asked the run to stop; a checkpoint was written first.
        """
        if self.due(self.options.log_every) or self.done == self.options.steps:
            self.log(logger)
        stop = self.asked_to_stop()
        if self.due(self.options.checkpoint_every) or self.done == self.options.steps or stop:
            self.checkpoint()
        if stop and self.done < self.options.steps:
            raise self._interrupted()
        if self._validation_is_due():
            self.validate_now(logger)
            self._end_early()

    def make_up_validation(self, logger: Logger) -> None:
        """The validation of the step that the run goes on from, where the attempt before was ended in front of it.

        One that was made counts also where this run would make none: the end of a training that got more steps.
        """
        rows = self.run.validation_log.rows()
        found = self.broadcast(next((row for row in rows if row["step"] == self.done), None))
        if found is not None:
            value = found.get(self.options.best_metric)
            if isinstance(value, int | float) and self._is_better(float(value)):
                self.best = self._best(float(value))
        elif self.done and self._validation_is_due():
            self.validate_now(logger)
        else:
            return
        self._end_early()

    def validate_now(self, logger: Logger) -> None:
        """Validate; where somebody asks the run to stop meanwhile, leave with a checkpoint of this step.

        Raises:
            RunInterrupted: somebody asked; the run goes on with this validation when it is started again.
        """
        if self.evaluate(logger):
            return
        self._keep_this_step()
        raise self._interrupted()

    def check_oldest(self) -> None:
        """Wait for the oldest update not yet looked at, and stop if it was not finite."""
        step, outcome = self.waiting.popleft()
        for name, value in (("loss", float(outcome.loss)), ("gradient's norm", float(outcome.grad_norm))):
            if not math.isfinite(value):
                raise self._diverged(step, f"{name} is {value}")

    def sync(self) -> Outcome | None:
        """Wait for every dispatched update; the last one's outcome."""
        last = self.waiting[-1][1] if self.waiting else None
        while self.waiting:
            self.check_oldest()
        return last

    def log(self, logger: Logger) -> None:
        """Write one row: the mean loss since the row before, and the rate of the last update."""
        outcome = self.sync()
        assert outcome is not None
        self.mean_loss = self.loss_since_log()
        self.fresh = True
        rate, epoch = self.schedule(self.done - 1), self._epoch()
        self.run.training_log.append({"step": self.done, "epoch": epoch, "loss": self.mean_loss, "lr": rate})
        parts = {f"train/{name}": float(value) for name, value in outcome.parts.items()}
        gradient = float(outcome.grad_norm)
        logger.log(self.done, {**parts, "train/loss": self.mean_loss, "train/grad_norm": gradient, "train/lr": rate})

    def evaluate(self, logger: Logger) -> bool:
        """Validate the deployed policy; keep it in `best/` if it is the best so far. False where it was left early."""
        assert self.validate is not None
        self.sync()
        policy = self.policy()
        try:
            scores = self.validate(policy, self.done)
        except ValidationStoppedError:
            return False
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if math.isfinite(value))
        self.run.log(f"step {self.done}: {shown}")
        value = scores.get(self.options.best_metric, math.nan)
        if self._is_better(value):
            save_policy(policy, self.run.folder / "best", self.policy_bytes, self._kept(), self.options.record_answers)
            self.best = self._best(value)
            self.checkpoints.retain(self.done)
        self.run.validation_log.append({"step": self.done, "epoch": self._epoch(), **scores})
        logger.log(self.done, {f"validation/{name}": value for name, value in scores.items()})
        return True

    def checkpoint(self) -> None:
        """Write a checkpoint of finite weights."""
        self.sync()
        arrays = self.arrays()
        for name, array in arrays.items():
            if name.startswith("weights/") and not np.isfinite(np.asarray(array)).all():
                weight = name.removeprefix("weights/")
                raise self._diverged(self.done, f"update made the weight '{weight}' infinite or NaN")
        meta = {
            **self.must_agree,
            "epoch": self._epoch(),
            "fresh": self.fresh,
            "mean_loss": self.mean_loss,
            "best": self.best._asdict() if self.best else None,
        }
        best_step = self.best.step if self.best else None
        self.checkpoints.save(
            self.done, self.policy(), arrays, meta, policy_bytes=self.policy_bytes, best_step=best_step
        )

    def finish(self) -> Policy:
        """Write `final/`; returns the deployed policy."""
        policy = self.policy()
        save_policy(policy, self.run.folder / "final", self.policy_bytes, self._kept(), self.options.record_answers)
        return policy

    def due(self, every: int | None) -> bool:
        """Whether something done every `every` steps is due now."""
        return every is not None and self.done % every == 0

    def progress_values(self) -> dict[str, float]:
        """What stands beside the progress bar."""
        return {"loss": self.mean_loss} if math.isfinite(self.mean_loss) else {}

    def profile(self, start: Callable[[], object], stop: Callable[[], object]) -> Profile | NoProfile:
        """A trace of `trainer.profile_steps` steps between `start` and `stop`, or none."""
        steps = self.options.profile_steps
        return Profile(start, stop, steps, self.done) if steps else NoProfile()

    def log_profile(self) -> None:
        """Say that the trace is written."""
        self.run.log(f"a trace of {self.options.profile_steps} steps is in {self.run.folder / 'profile'}")

    def _take(self, restored: Restored) -> None:
        expected = self.stored_types()
        found = {name: (a.shape, _type(a)) for name, a in restored.arrays.items()}
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        agreed = {key: restored.meta.get(key) for key in self.must_agree}
        if agreed != self.must_agree or differing:
            changed = [key for key in agreed if agreed[key] != self.must_agree[key]] + differing[:3]
            more = f" and {len(differing) - 3} more arrays" if len(differing) > 3 else ""
            raise UserError(
                f"{self.run.folder} holds a checkpoint of another training run: they differ in {', '.join(changed)}"
                f"{more}. Give the options that run was started with, or start in a new folder."
            )
        self.take_arrays(restored.arrays)
        best, fresh, mean = (restored.meta[key] for key in ("best", "fresh", "mean_loss"))
        assert isinstance(fresh, bool) and isinstance(mean, int | float)
        self.done, self.fresh, self.mean_loss = restored.step, fresh, mean
        self.best = Best.read(best) if isinstance(best, Mapping) else None

    def _diverged(self, step: int, what: str) -> TrainingDiverged:
        return diverged(
            step=step,
            what=what,
            episodes=np.asarray(self.batches.at(step - 1)["episode_index"]),
            kept=self.checkpoints.latest_name(),
            rate=self.schedule(step - 1),
            clip_norm=self.options.clip_norm,
        )

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        higher = higher_is_better(self.options.best_metric)
        return value > self.best.value if higher else value < self.best.value

    def _end_early(self) -> None:
        """Notice, and say, that the validations so far end the training here; its checkpoint is kept."""
        patience, metric = self.options.early_stopping_patience, self.options.best_metric
        if patience is None or self.done == self.options.steps:
            return
        rows = self.run.validation_log.rows()
        waited = self.broadcast(waited_for(metric, rows, self.options.early_stopping_threshold))
        if waited < patience:
            return
        self.ended = True
        self._keep_this_step()
        best = f", {self.best.value:.4g} at step {self.best.step}" if self.best else ""
        self.run.log(
            f"stopped early at step {self.done} of {self.options.steps}: the last {waited} validations did not improve "
            f"on the best {metric} before them{best} (trainer.early_stopping_patience={patience})"
        )

    def _keep_this_step(self) -> None:
        """A checkpoint of this step, unless there is one."""
        if self.broadcast(self.done not in self.checkpoints.steps()):
            self.checkpoint()

    def _validation_is_due(self) -> bool:
        every = self.options.val_every
        return self.validate is not None and every is not None and (self.due(every) or self.done == self.options.steps)

    def _best(self, value: float) -> Best:
        return Best(self.done, self.options.best_metric, value)

    def _interrupted(self) -> Exception:
        return self.run.interrupted(f"asked to stop: checkpoint-{self.done} is written")

    def _epoch(self) -> float:
        return self.batches.epoch(self.done)

    def _kept(self) -> str:
        last = self.checkpoints.latest_name()
        return f"{last} is complete" if last else "no checkpoint existed yet"


def _type(array: Array) -> str:
    return str(array.dtype)
