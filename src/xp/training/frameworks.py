"""What training does by framework, JAX or torch: its loop, its loss of named weights, and what it is prepared with.

The framework is that of a model's family (`Family.framework`), a trainable or a policy.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xp.models.policy import Framework, Policy
from xp.models.trainable import Trainable
from xp.runs import Run
from xp.training.overfit import StepBatches

if TYPE_CHECKING:
    from xp.data.dumps import Dump
    from xp.merging.objective import Objective

_SESSIONS = {"jax": "JaxSession", "torch": "TorchSession"}
"""The class in `xp.training.FRAMEWORK.loop` that trains a model."""
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


def train_any(run: Run, trainable: Trainable, batches: StepBatches, **options: Any) -> Policy:
    """Train in the session of the trainable's framework; options are those of `xp.training.session.Session.train`."""
    session = getattr(_module(trainable.framework, "loop"), _SESSIONS[trainable.framework])
    return session.train(run, trainable, batches, **options)


def policy_loss(policy: Policy, dump: "Dump") -> "Objective":
    """The loss of a policy on a dump as a function of its named weights, with its gradient."""
    return _module(policy.framework, "policy_loss").PolicyLoss(policy, dump)


def _module(framework: Framework, name: str) -> Any:
    return importlib.import_module(f"xp.training.{framework}.{name}")
