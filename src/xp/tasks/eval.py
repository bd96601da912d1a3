"""`xp task=eval`: score a policy as `eval.name` says: closed_loop in simulation, or offline_replay on recordings."""

import importlib

from xp.runs import Run

MODULES = {"closed_loop": "xp.tasks._lib.closed_loop", "offline_replay": "xp.tasks._lib.offline_replay"}


def run(run: Run) -> None:
    """Hand the run to the module of its kind; see there for what it leaves."""
    importlib.import_module(MODULES[run.config.eval.name]).run(run)
