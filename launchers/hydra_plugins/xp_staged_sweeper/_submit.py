"""Hand the jobs of a plan to an executor: once, with everything stored that another process needs to find them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_plugins.xp_staged_sweeper._experiment import Experiment, PlannedJob
from hydra_plugins.xp_staged_sweeper._plan import Action, Plan, say
from xp.errors import UserError
from xp.json_types import JSONObject
from xp.runs.executors.protocol import Executor, Submission
from xp.runs.executors.submitted import note_handle, note_launcher, submit_and_note
from xp.runs.records.folder import RECORD
from xp.runs.records.record import Record
from xp.shell import command, near

if TYPE_CHECKING:
    from rich.console import Console

_TOLD = 20
"""Submitted jobs that get a line of their own."""


def recover(executor: Executor | None, experiments: Sequence[Experiment]) -> None:
    """Note the handles of jobs that an earlier call submitted and could not note, because it was killed."""
    for experiment in experiments:
        if executor is not None and executor.detachable and experiment.folder.is_dir():
            for folder, handle in executor.recover(experiment.folder).items():
                note_handle(folder, executor.name, handle)


def submit(executor: Executor, plan: Plan, settings: JSONObject, console: "Console") -> dict[str, Path]:
    """Submit what is to be run, adopt what an earlier call submitted; gives {handle: folder} of both.

    Raises:
        UserError: another executor has one of the jobs.
    """
    jobs = [planned for planned in plan.jobs if plan.actions[planned.job.folder].starts]
    taken = _taken(executor, plan)
    for experiment in plan.experiments:
        note_launcher(experiment.folder, executor.name, settings)
    handles = submit_and_note(executor, submissions(jobs, taken))
    if executor.detachable:
        _tell_handles(jobs, handles, taken, executor.name, console)
    return {handle: planned.job.folder for planned, handle in zip(jobs, handles)}


def _tell_handles(
    jobs: Sequence[PlannedJob], handles: Sequence[str], taken: Mapping[Path, str], executor: str, console: "Console"
) -> None:
    """A line for each job; of many the first few, since every record holds its job's handle."""
    for planned, handle in list(zip(jobs, handles))[:_TOLD]:
        word = "goes on" if planned.job.folder in taken else "submitted"
        say(console, f"{word}: {planned.stage.key}/{planned.job.name} -> {executor} {handle}")
    if len(jobs) > _TOLD:
        going = sum(planned.job.folder in taken for planned in jobs[_TOLD:])
        more = len(jobs) - _TOLD
        say(console, f"and {more} more: {more - going} submitted, {going} go on; the last is {executor} {handles[-1]}")


def submissions(jobs: Sequence[PlannedJob], handles: Mapping[Path, str]) -> list[Submission]:
    """What an executor is told of these jobs. `handles` are those of jobs that it has already."""
    todo = {planned.job.folder for planned in jobs}
    return [
        Submission(
            folder=planned.job.folder,
            needs=tuple(need.job.folder for need in planned.needs if need.job.folder in todo),
            always=planned.job.always,
            stage=planned.stage.key,
            resources=planned.stage.resources,
            handle=handles.get(planned.job.folder, ""),
        )
        for planned in jobs
    ]


def print_next_steps(plan: Plan, executor: str, console: "Console") -> int:
    """The last lines of a call that does not wait: how to look, follow and cancel. Gives the exit code 0."""
    number = sum(action.starts for action in plan.actions.values())
    one = number == 1
    told = f"1 job is with {executor} and goes" if one else f"{number} jobs are with {executor} and go"
    say(console, f"{told} on without this process. The same command adopts {'it' if one else 'them'}.")
    for experiment in plan.experiments:
        say(console, f"  look:   {command('task=status', status__folder=near(experiment.folder))}")
        say(console, f"  cancel: {command('task=cancel', cancel__folder=near(experiment.folder))}")
    return 0


def _taken(executor: Executor, plan: Plan) -> dict[Path, str]:
    """Handles of the jobs that this executor has already. Workers of this machine wait for whatever runs anywhere.

    Raises:
        UserError: a job is with another executor, or at work without one.
    """
    actions = (Action.RUNNING, Action.QUEUED) if executor.detachable else (Action.QUEUED,)
    found: dict[Path, str] = {}
    for planned in plan.having(*actions):
        record = Record(planned.job.folder / RECORD)
        if record.get("executor") != executor.name or not record.get("handle"):
            raise UserError(
                f"{planned.job.name} is {record.standing} under hydra/launcher={record.get('executor') or 'local'}, "
                f"process {record.get('pid')} on {record.get('host')}; {executor.name} cannot take it over. Wait for "
                f"it, or end it first: {command('task=cancel', cancel__folder=near(planned.job.folder))}"
            )
        found[planned.job.folder] = record.text("handle")
    return found
