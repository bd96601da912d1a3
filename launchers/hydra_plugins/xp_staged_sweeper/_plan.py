"""What is to be done with each job, how long it may take, and the table that says so before anything starts."""

import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_plugins.xp_staged_sweeper._eta import Paces
from hydra_plugins.xp_staged_sweeper._experiment import Experiment, PlannedJob, Rules
from xp.config.more_steps import refuse_nothing_to_extend
from xp.errors import join_names
from xp.runs.execution.progress import clock_text
from xp.runs.execution.run_once import compare
from xp.runs.executors.protocol import JobState
from xp.runs.executors.submitted import ask, is_open, never_begun
from xp.runs.records.folder import RECORD
from xp.runs.records.record import Record, State
from xp.shell import near

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Action(StrEnum):
    """What happens to a job."""

    DONE = "done"
    RUN = "to run"
    RESUME = "to resume"
    RETRY = "to retry"
    RUNNING = "running"
    """Another process works on it: wait for it."""
    QUEUED = "queued"
    """An earlier call has submitted it: wait for it."""
    FAILED = "failed"
    """It failed before, and retry_failed was not given."""
    BLOCKED = "blocked"

    @property
    def starts(self) -> bool:
        """Whether the executor gets the job."""
        return self in (Action.RUN, Action.RESUME, Action.RETRY, Action.RUNNING, Action.QUEUED)

    @property
    def freezes(self) -> bool:
        """Whether the job is written anew into its folder."""
        return self in (Action.RUN, Action.RESUME, Action.RETRY)


@dataclass(frozen=True)
class Plan:
    """Actions of all jobs, by folder, and the seconds each may take (None: nothing like it has run yet)."""

    experiments: Sequence[Experiment]
    actions: Mapping[Path, Action]
    seconds: Mapping[Path, float | None]

    @property
    def jobs(self) -> list[PlannedJob]:
        """All jobs of all experiments."""
        return [planned for experiment in self.experiments for planned in experiment.jobs]

    def having(self, *actions: Action) -> list[PlannedJob]:
        """The jobs with one of these actions."""
        return [planned for planned in self.jobs if self.actions[planned.job.folder] in actions]


def make_plan(experiments: Sequence[Experiment], rules: Rules, *, retry_failed: bool) -> Plan:
    """Look into every job's folder, and ask the executors of jobs that an earlier call has submitted.

    Raises:
        UserError: a folder holds another run; names the keys that differ. Or `lr.extend` is given: a job with other
            steps is another job.
    """
    actions: dict[Path, Action] = {}
    seconds: dict[Path, float | None] = {}
    for experiment in experiments:
        known = _records(experiment)
        seen = ask(folder for folder, record in known.items() if record.get("handle"))
        paces = Paces(experiment.folder, _done(experiment, known))
        for planned in experiment.jobs:
            folder = planned.job.folder
            refuse_nothing_to_extend(planned.job.config, f"a sweep ({experiment.folder})")
            record = known.get(folder) or Record(folder / RECORD, {})
            actions[folder] = _action(planned, record, actions, rules, seen.get(folder), retry_failed)
            known_s = paces.expected(planned.job, record)
            seconds[folder] = planned.stage.about_s if known_s is None and experiment.as_written else known_s
    return Plan(experiments, actions, seconds)


def _done(experiment: Experiment, known: Mapping[Path, Record]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for planned in experiment.jobs:
        record = known.get(planned.job.folder)
        if record is not None and record.state is State.DONE:
            found.setdefault(planned.stage.key, []).append(planned.job.folder)
    return found


def _records(experiment: Experiment) -> dict[Path, Record]:
    """What is in the jobs' folders, each read once."""
    if not experiment.folder.is_dir():
        return {}
    there = {entry.name for entry in os.scandir(experiment.folder)}
    folders = [planned.job.folder for planned in experiment.jobs if planned.job.folder.name in there]
    return {folder: record for folder in folders if (record := Record(folder / RECORD))}


def _action(
    planned: PlannedJob,
    record: Record,
    known: Mapping[Path, Action],
    rules: Rules,
    seen: JobState | None,
    retry_failed: bool,
) -> Action:
    if planned.skip:
        return Action.DONE
    if not planned.job.always and not never_begun(planned.job.folder, record):
        compare(planned.job, rules.result_config, record)
    needs = [known[need.job.folder] for need in planned.needs]
    if record.state is State.DONE and not (planned.job.always and _outdated(planned, record, needs)):
        return Action.DONE
    if not planned.job.always and any(each in (Action.FAILED, Action.BLOCKED) for each in needs):
        return Action.BLOCKED
    if is_open(record, seen):
        return Action.RUNNING if record.state is State.RUNNING else Action.QUEUED
    if record.state is State.FAILED:
        return Action.RETRY if retry_failed else Action.FAILED
    begun = record.interrupted or record.state in (State.RUNNING, State.CANCELLED)
    return Action.RESUME if begun else Action.RUN


def _outdated(planned: PlannedJob, record: Record, needs: Sequence[Action]) -> bool:
    """Whether a report of what there is has been overtaken: it shows other runs, or they run now or ran after it."""
    if record.get("identity") != planned.job.identity or any(each.starts for each in needs):
        return True
    ends = [Record(need.job.folder / RECORD).text("ended") for need in planned.needs]
    return any(end > record.text("started") for end in ends)


def expected_seconds(plan: Plan, workers: int | None) -> tuple[float, bool]:
    """Seconds until the last job ends if each takes what its kind took, and whether all of them could be estimated.

    List scheduling: a free worker takes the first job, in order, whose needs are done.
    """
    ends: dict[Path, float] = {}
    jobs = plan.jobs
    free = [0.0] * max(1, workers or len(jobs))  # a heap: the first is the smallest
    complete = True
    for planned in jobs:
        action = plan.actions[planned.job.folder]
        if not action.starts:
            ends[planned.job.folder] = 0.0
            continue
        took = plan.seconds[planned.job.folder]
        complete = complete and took is not None
        start = max([free[0], *(ends.get(need.job.folder, 0.0) for need in planned.needs)])
        ends[planned.job.folder] = start + (took or 0.0)
        heapq.heapreplace(free, ends[planned.job.folder])
    return max(ends.values(), default=0.0), complete


def summary_line(plan: Plan, workers: int | None, now: datetime | None = None) -> str:
    """One line: `9 jobs: 2 done, 7 to run; about 3:20 with 2 at a time, until 16:42`."""
    counts = [(action, len(plan.having(action))) for action in Action]
    parts = ", ".join(f"{number} {action}" for action, number in counts if number)
    total, complete = expected_seconds(plan, workers)
    if total > 0:
        end = clock_time((now or datetime.now()) + timedelta(seconds=total), now or datetime.now())
        how = f"with {workers} at a time" if workers else "if none has to wait for a machine"
        about = f"; {'about' if complete else 'at least'} {clock_text(total)} {how}, until {end}"
    else:
        starts = any(action.starts for action in plan.actions.values())
        about = "; time unknown, nothing like it has run here yet" if starts else ""
    return f"{len(plan.jobs)} job{'s' * (len(plan.jobs) != 1)}: {parts}{about}"


def clock_time(moment: datetime, now: datetime) -> str:
    """A moment on the clock, with its day unless that is today's."""
    return f"{moment:%H:%M}" if moment.date() == now.date() else f"{moment:%a %d %b %H:%M}"


def table(plan: Plan, width: int = 80) -> "Table":
    """A rich table with one row per stage; names of jobs are cut to what is left of the line."""
    from rich.table import Table
    from rich.text import Text

    used = [action for action in Action if plan.having(action)]
    rows: list[list[str]] = []
    several = len(plan.experiments) > 1
    for experiment in plan.experiments:
        for stage in experiment.stages:
            jobs = [planned for planned in experiment.jobs if planned.stage.key == stage.key]
            if jobs:
                name = f"{experiment.name}/{stage.key}" if several else stage.key
                rows.append([name, *_cells(plan, jobs, used)])
    grid = Table()
    left = width - 4
    for index, column in enumerate(("stage", "jobs", *used, "time each")):
        longest = max(len(column), *(len(row[index]) for row in rows))
        justify = "left" if column == "stage" else "right"
        grid.add_column(column, justify=justify, overflow="fold", width=min(longest, 24))
        left -= min(longest, 24) + 3
    grid.add_column("first to run", overflow="ellipsis", no_wrap=True, max_width=max(12, left))
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid


def places(plan: Plan) -> list[str]:
    """Lines that say where each experiment is, and that names were lengthened if some were."""
    lines = []
    for experiment in plan.experiments:
        lines.append(f"{experiment.name or 'sweep'} in {near(experiment.folder)}")
        for key, stages in experiment.partial.items():
            lines.append(f"{key} is not for {join_names(stages)}, where there is no such key")
        if experiment.told_apart:
            several = experiment.told_apart != 1
            lines.append(
                f"{experiment.told_apart} name{'s end' if several else ' ends'} in a hash: runs with the same swept "
                "values and other settings are there already"
            )
    return lines


def _cells(plan: Plan, jobs: Sequence[PlannedJob], used: Sequence[Action]) -> list[str]:
    actions = [plan.actions[planned.job.folder] for planned in jobs]
    todo = [planned.job.name for planned, action in zip(jobs, actions) if action is not Action.DONE]
    took = plan.seconds[jobs[0].job.folder]
    numbers = [str(actions.count(action) or "") for action in used]
    names = ", ".join(todo[:3]) + (", ..." if len(todo) > 3 else "")
    return [str(len(jobs)), *numbers, clock_text(took) if took is not None else "?", names]


def say(console: "Console", text: str) -> None:
    """Print one line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
