"""The JAX training loop: updates in one compiled function, everything around them by `xp.training.session`."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import cast

import jax
import numpy as np

from xp.checkpoints.arrays import Array
from xp.config.devices import check_accumulate
from xp.json_types import JSONObject
from xp.models.policy import Policy
from xp.models.trainable import JaxTrainable
from xp.models.tree import flatten
from xp.runs import Run
from xp.training.digest import digest_of
from xp.training.disk import bytes_of
from xp.training.jax.sharding import Inputs, WeightTree, make_placement
from xp.training.jax.step import (
    deployed,
    initial_state,
    make_optimiser,
    make_step,
    named_arrays,
    seed_words,
    state_from_arrays,
)
from xp.training.loggers import Logger
from xp.training.options import TrainerOptions
from xp.training.overfit import StepBatches
from xp.training.partition import Partition, split
from xp.training.prefetch import prefetched
from xp.training.schedules import Schedule
from xp.training.session import Session, Validate, train_session


class JaxSession(Session):
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
        partition: Partition[Array] = split(
            flatten(trainable.weights),
            freeze=options.freeze,
            model_frozen=trainable.frozen,
            presets=trainable.freeze_presets,
        )
        run.log(partition.describe())
        must_agree = {"seed": seed, "frozen": digest_of(partition.frozen) if partition.frozen else None}
        policy_bytes = bytes_of(partition.trained) + bytes_of(partition.frozen)
        super().__init__(run, batches, validate, options, schedule, must_agree, policy_bytes)
        self.trainable, self.seed = trainable, seed_words(seed)
        optimiser = make_optimiser(options, partition, betas=trainable.betas, eps=trainable.eps)
        self.placement = make_placement(options.sharding)
        self.state = self.placement.place(initial_state(partition, optimiser, options))
        self.frozen = self.placement.place(partition.frozen)
        self.update = make_step(trainable.loss, optimiser, options, self.placement)

    def train_all(self, logger: Logger) -> None:
        """Do the remaining steps."""
        if self.ended:
            return
        steps, folder = self.options.steps, self.run.folder / "profile"
        profile = self.profile(lambda: jax.profiler.start_trace(str(folder)), jax.profiler.stop_trace)
        with ExitStack() as stack:
            stack.callback(profile.close)
            bar = stack.enter_context(self.run.progress(steps, "training", unit="step", start=self.done))
            for inputs in stack.enter_context(prefetched(self.inputs, self.done, steps)):
                profile.before(self.done)
                self.step(inputs)
                self.after_update(logger)
                if profile.after(self.done):
                    self.log_profile()
                bar.advance(1, **self.progress_values())
                if self.ended:
                    break

    def inputs(self, step: int) -> Inputs:
        """The model's inputs for the update that follows `step` finished ones, on their way to the device."""
        prepared = self.trainable.prepare(self.batches.at(step))
        check_accumulate(next(iter(prepared.values())).shape[0], self.options.accumulate)
        return self.placement.place_inputs(prepared)

    def step(self, inputs: Inputs) -> None:
        """Dispatch one update."""
        rate = self.schedule(self.done)
        self.state, outcome = self.update(
            self.state, self.frozen, inputs, self.seed, np.uint32(self.done), np.float32(rate), np.bool_(self.fresh)
        )
        self.record_step(outcome)

    def policy(self) -> Policy:
        """The policy that would be deployed now."""
        return self.trainable.policy(cast(WeightTree, deployed(self.state, self.frozen)))  # placed, so all are JAX's

    def arrays(self) -> Mapping[str, Array]:
        """The leaves of the state."""
        return named_arrays(self.state)

    def take_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put the arrays where the state's leaves were."""
        self.state = self.placement.place(state_from_arrays(self.state, arrays))

    def loss_since_log(self) -> float:
        """The running loss of the state."""
        return float(self.state.loss_sum) / int(self.state.loss_count)


def train(
    run: Run,
    trainable: JaxTrainable,
    batches: StepBatches,
    *,
    validate: Validate | None,
    trainer: JSONObject,
    lr: JSONObject,
    seed: int,
    logger: JSONObject | None = None,
) -> Policy:
    """Train a model in JAX; arguments, result and errors are those of `xp.training.train_any`."""
    options = TrainerOptions.read(trainer)
    options.refuse_torch_only()

    def make(batches: StepBatches, schedule: Schedule) -> JaxSession:
        return JaxSession(run, trainable, batches, validate, options, schedule, seed)

    return train_session(run, batches, make, options=options, lr=lr, logger=logger)
