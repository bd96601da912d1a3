"""What differs between JAX and torch: how a framework is prepared, its training loop, its loss of named weights.

The framework is that of a model's family (`Family.framework`), a trainable or a policy.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xp import collector
from xp.json_types import JSONObject
from xp.models.policy import Framework, Policy
from xp.models.trainable import Trainable
from xp.runs import Run
from xp.training.options import TrainerOptions
from xp.training.overfit import StepBatches
from xp.training.session import Validate

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from xp.data.dumps import Dump
    from xp.merging.objective import Objective
    from xp.training.probe import Probe

IN_PROCESSES: tuple[Framework, ...] = ("torch",)
"""Frameworks whose devices are driven by a process each; JAX drives all of a machine's from one."""


def prepare_framework(framework: Framework, cache: Path) -> None:
    """Prepare a framework before its first use; JAX gets the shared cache of compiled programs under `cache`."""
    if framework == "jax":
        from xp.training.jax.runtime import prepare_jax

        prepare_jax(cache / "jax")


def import_loop(framework: Framework) -> None:
    """Import what `train_any` will for models of this framework, the framework included."""
    _module(framework, "loop")


def train_any(
    run: Run,
    trainable: Trainable,
    batches: StepBatches,
    *,
    validate: Validate | None,
    trainer: JSONObject,
    lr: JSONObject,
    seed: int,
    logger: JSONObject | None = None,
) -> Policy:
    """Train by the loop of the trainable's framework, writing logs, checkpoints, `best/` and `final/` into the run.

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
    train = _module(trainable.framework, "loop").train
    return train(run, trainable, batches, validate=validate, trainer=trainer, lr=lr, seed=seed, logger=logger)


def probe_any(
    run: Run, trainable: Trainable, batches: StepBatches, *, trainer: JSONObject, seed: int
) -> "AbstractContextManager[Probe]":
    """A probe of what memory updates take at other batch sizes, by the loop of the trainable's framework.

    Args:
        run: a run in a folder of its own, which is thrown away.
        trainable: the model, likewise.
        batches: training data of any batch size, for what a model fills from data.
        trainer: the `trainer` section.
        seed: of the training.
    """
    probing = _module(trainable.framework, "probe").probing
    return probing(run, trainable, batches, TrainerOptions.read(trainer), seed)


def policy_loss(policy: Policy, dump: "Dump") -> "Objective":
    """The loss of a policy on a dump as a function of its named weights, with its gradient."""
    return _module(policy.framework, "policy_loss").PolicyLoss(policy, dump)


def _module(framework: Framework, name: str) -> Any:
    with collector.paused():
        return importlib.import_module(f"xp.training.{framework}.{name}")
