"""Whether somebody brings back what an experiment's jobs on other machines write, and what to type if not.

Some executors need a process on this machine for that (ssh's keeper); killed, it leaves jobs at work that nobody
watches. Executors without such a process have no method `attended`.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path

from xp.errors import UserError
from xp.runs.executor import Executor, executor_named
from xp.runs.reading import read_json
from xp.runs.record import State
from xp.runs.submitted import LAUNCHER


def launcher_of(experiment: Path) -> Executor | None:
    """The executor that an experiment was handed to; None if it runs with its controller or is not installed here."""
    noted = read_json(experiment / LAUNCHER, default={})
    if not noted:
        return None
    try:
        return executor_named(noted["executor"], **noted.get("settings", {}))
    except UserError:
        return None


def unattended(experiment: Path, states: Iterable[str]) -> str | None:
    """A line with the command to type, if jobs of the experiment are open and the process that drives them is gone."""
    if not any(state in (State.PENDING, State.RUNNING, "interrupted", "queued", "starting") for state in states):
        return None
    executor = launcher_of(experiment)
    attended = getattr(executor, "attended", None)
    if attended is None or attended(experiment):
        return None
    command = read_json(experiment / "experiment.json", default={}).get("command") or shlex.join(["xp", "...", "-m"])
    return f"{experiment} is unattended: its jobs go on, but nobody brings back what they write. Type: {command}"
