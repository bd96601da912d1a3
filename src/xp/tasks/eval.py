"""`xp task=eval`: score as `eval.name` says.

closed_loop: a policy in simulation; offline_replay: a policy on recordings; expert: the expert of a suite;
returns: a policy that acts by its rewards, many envs side by side.
"""

import importlib

from xp.runs import Run

MODULES = {
    "closed_loop": "xp.tasks._lib.closed_loop",
    "expert": "xp.tasks._lib.expert_eval",
    "offline_replay": "xp.tasks._lib.offline_replay",
    "returns": "xp.tasks._lib.returns_eval",
}


def run(run: Run) -> None:
    """Hand the run to the module of its kind; see there for what it leaves."""
    importlib.import_module(MODULES[run.config.eval.name]).run(run)
