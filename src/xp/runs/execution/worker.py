"""What processes that run jobs for an executor share: the function that runs a job, found by its name."""

import importlib
from collections.abc import Callable

from xp.runs.execution.run import Run

Task = Callable[[Run], None]


def task_named(target: str) -> Task:
    """The function `MODULE:FUNCTION`, which runs a `Run`.

    Its module is imported when it is called, inside the run: so the run's log gets what goes wrong in importing it.
    """
    module, _, function = target.partition(":")

    def task(run: Run) -> None:
        getattr(importlib.import_module(module), function)(run)

    return task
