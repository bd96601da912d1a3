"""Whether somebody brings back what an experiment's jobs on other machines write, and what to type if not.

Some executors need a process on this machine for that (ssh's keeper); killed, it leaves jobs at work that nobody
watches: `Executor.controller_is_running` tells, and `Executor.host_errors` why jobs wait.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xp.errors import UserError
from xp.foreign.text import printable
from xp.runs.executors.protocol import Executor, executor_named
from xp.runs.executors.submitted import ForeignLauncher, launcher_settings
from xp.runs.records.json_io import read_object
from xp.runs.records.record import State


def launcher_of(experiment: Path) -> Executor | None:
    """The executor that an experiment was handed to; None if it runs with its controller or is not installed here.

    Raises:
        ForeignLauncher: its settings were not written by this user.
    """
    noted = launcher_settings(experiment)
    if noted is None:
        return None
    name, settings = noted
    try:
        return executor_named(name, **settings)
    except (TypeError, UserError, ValueError):
        return None


@dataclass(frozen=True)
class Warnings:
    """Lines for people about an experiment with open jobs."""

    host_errors: tuple[str, ...] = ()
    """What keeps its hosts from work: the reason that a table of jobs cannot show, so it stands above it."""
    todo: tuple[str, ...] = ()
    """What to type where its controller is not running."""


def warnings(experiment: Path, states: Iterable[str]) -> Warnings:
    """What is to be said about an experiment beside its jobs; nothing once all of them have ended."""
    if not any(state in (State.PENDING, State.RUNNING, "interrupted", "queued", "starting") for state in states):
        return Warnings()
    try:
        executor = launcher_of(experiment)
    except ForeignLauncher as error:
        return Warnings((str(error),))
    if executor is None:
        return Warnings()
    host_errors = tuple(printable(line, 2000) for line in executor.host_errors(experiment))
    if executor.controller_is_running(experiment):
        return Warnings(host_errors)
    command = read_object(experiment / "experiment.json", default={}).get("command") or "the same command again"
    return Warnings(host_errors, (
        f"{experiment} is unattended: what runs goes on, but nobody brings back its results or starts more. Type: "
        f"{printable(command, 4000)}",
    ))  # fmt: skip
