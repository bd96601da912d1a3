"""The sweep from the command line to the exit code: plan, print, freeze, drive, sum up."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from hydra_plugins.xp_executor_base._launcher import ExecutorLauncher
from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._experiment import (
    EXPERIMENT,
    Experiment,
    PlannedJob,
    plan_experiment,
    read_command_line,
)
from hydra_plugins.xp_staged_sweeper._freezing import freeze_all
from hydra_plugins.xp_staged_sweeper._hydra_keys import SUBDIR, refuse_options, refuse_unread, typed
from hydra_plugins.xp_staged_sweeper._jobs import Rules
from hydra_plugins.xp_staged_sweeper._plan import Action, Plan, make_plan, places, say, summary_line, table
from hydra_plugins.xp_staged_sweeper._submit import print_next_steps, recover, submit
from xp.atomic import write_json
from xp.errors import UserError
from xp.runs.execution.run_once import STOCK
from xp.runs.executors.protocol import Executor, JobState
from xp.runs.executors.submitted import submission_locks
from xp.runs.jobs import snapshot, stage_references
from xp.runs.jobs.hub_inputs import fetch_inputs
from xp.runs.jobs.secrets import redact_overrides
from xp.runs.records.json_io import explain_write_errors
from xp.runs.records.record import now
from xp.shell import command, near

if TYPE_CHECKING:
    from rich.console import Console

OK, FAILED, INTERRUPTED = 0, 1, 130


def xp_rules() -> Rules:
    """The checks and the result configuration that `xp.config` gives."""
    from xp.config import check
    from xp.config.check_alike import check_alike
    from xp.config.identity_keys import is_transient, result_config
    from xp.config.resolvers import READS
    from xp.config.schema import NO_RUN

    def show(folder: Path) -> None:
        from xp.tasks.report import show_results

        show_results(folder)

    def check_values(config: DictConfig) -> None:
        check(config, complete=False)

    def check_job(config: DictConfig) -> None:
        task = config.task.name
        if task in NO_RUN:
            raise UserError(
                f"task={task} makes no run, so it cannot be a job of a sweep. Type it alone: xp task={task}"
            )
        check(config)

    return Rules(
        check=check_job,
        check_values=check_values,
        check_alike=check_alike,
        result_config=result_config,
        is_transient=is_transient,
        show=show,
        pure=READS,
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """`hydra.sweeper`."""

    dry_run: bool = False
    retry_failed: bool = False
    params: Any = None
    others: Mapping[str, object] = field(default_factory=dict)
    """Keys that there are none of: they are refused with a sentence of their own."""


class Sweep:
    """One call of the staged sweeper."""

    def __init__(self, options: Options, context: Any, task_function: Any, config: Any):
        self._options, self._context, self._task, self._config = options, context, task_function, config

    def run(self, arguments: Sequence[str], rules: Rules | None = None) -> int:
        """Do it all; gives the exit code."""
        from rich.console import Console

        stage_references.register()
        console = Console()
        rules = rules or xp_rules()
        launcher = self._launcher()
        executor = launcher.executor() if isinstance(launcher, ExecutorLauncher) else None
        refuse_options(self._options.others)
        try:
            experiments = self._experiments(arguments, rules, stock=executor is None)
        except UserError:  # no job can start from here: that comes first
            if executor is not None and not self._options.dry_run:
                executor.check_available()
            raise
        with ExitStack() as held:
            if not self._options.dry_run:  # until the jobs are submitted no other call plans, freezes or submits them
                held.enter_context(submission_locks(executor, [each.folder for each in experiments]))
            return self._planned(experiments, arguments, rules, launcher, executor, console, held)

    def _planned(
        self,
        experiments: Sequence[Experiment],
        arguments: Sequence[str],
        rules: Rules,
        launcher: Any,
        executor: Executor | None,
        console: "Console",
        held: ExitStack,
    ) -> int:
        """Plan, freeze and submit with `held` open; close it and wait for the jobs, where the launcher waits."""
        recover(executor, experiments)
        plan = make_plan(experiments, rules, retry_failed=self._options.retry_failed)
        workers = 1 if executor is None else executor.n_jobs
        todo = [planned for planned in plan.jobs if plan.actions[planned.job.folder].starts]
        if not todo and not self._options.dry_run:
            return self._shown(plan, rules, self._nothing(plan, console))
        for text in places(plan):
            say(console, text)
        console.print(table(plan, console.width))
        console.print(summary_line(plan, workers), highlight=False, soft_wrap=True)
        if self._options.dry_run:
            return OK
        fetch_inputs(planned.job for planned in plan.jobs if plan.actions[planned.job.folder].freezes)
        self._freeze(plan, arguments, STOCK if executor is None else executor.name)
        if executor is None or not isinstance(launcher, ExecutorLauncher):
            from hydra_plugins.xp_staged_sweeper._foreign_launcher import launch

            states = launch(launcher, todo)
            return self._shown(plan, rules, self._sum_up(plan, states, console))
        from hydra_plugins.xp_staged_sweeper._drive import drive

        folders = submit(executor, plan, launcher.settings, console)
        held.close()
        if executor.detachable and launcher.detach:
            executor.close()
            return print_next_steps(plan, executor.name, console)
        states = drive(executor, todo, folders, grace_s=launcher.grace_s, console=console, expected=plan.seconds)
        return self._shown(plan, rules, self._sum_up(plan, states, console))

    def _shown(self, plan: Plan, rules: Rules, code: int) -> int:
        """The results last, so that they are what stands on the screen."""
        for experiment in plan.experiments:
            rules.show(experiment.folder)
        return code

    def _experiments(self, arguments: Sequence[str], rules: Rules, *, stock: bool) -> list[Experiment]:
        composer = Composer(self._context.config_loader, self._config)
        names, _ = read_command_line(composer, arguments)
        own = self._typed("hydra")
        refuse_unread(own, staged=names != [None], stock=stock)
        found: list[Experiment] = []
        for name in names:
            params = self._params(composer, name)
            _, line = read_command_line(composer, [*params, *arguments])
            found.append(plan_experiment(composer, name, line, rules, subdir=typed(own, SUBDIR)))
        return found

    def _params(self, composer: Composer, name: str | None) -> list[str]:
        """Sweeps in Hydra's own form (hydra.sweeper.params), of each experiment for itself."""
        if name is None:
            params = self._options.params
        else:
            params = composer.hydra_of([f"+experiment={name}"]).hydra.sweeper.get("params")
        return [f"{key}={value}" for key, value in (params or {}).items()]

    def _launcher(self) -> Any:
        from hydra.core.plugins import Plugins

        return Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=self._task, config=self._config
        )

    def _typed(self, kind: str) -> list[str]:
        """The overrides as typed, for the job (`task`) or for the section `hydra`; interpolations stay text."""
        found: Any = OmegaConf.to_container(self._config.hydra.overrides[kind], resolve=False)
        return found

    def _freeze(self, plan: Plan, arguments: Sequence[str], executor: str) -> None:
        """Write every job that will run into its folder, with the hash of the code."""
        for experiment in plan.experiments:
            with explain_write_errors(experiment.folder):
                code = snapshot.take(experiment.folder)
            jobs = [planned.job for planned in experiment.jobs if plan.actions[planned.job.folder].freezes]
            freeze_all([replace(job, snapshot=code) for job in jobs], executor)
            description = _description(experiment, arguments, code)
            write_json(experiment.folder / EXPERIMENT, {**description, "command": self._command(retry=False)})

    def _nothing(self, plan: Plan, console: "Console") -> int:
        done, failed = plan.having(Action.DONE), plan.having(Action.FAILED, Action.BLOCKED)
        if not failed:
            say(console, f"{len(done)} of {len(plan.jobs)} done, nothing to run")
            self._where(plan, console)
            return OK
        return self._sum_up(plan, {}, console)

    def _where(self, plan: Plan, console: "Console") -> None:
        """Where the results are and what to type to see them; where there is a page, its path is shown instead."""
        for experiment in plan.experiments:
            if not (experiment.folder / "report.html").is_file():
                folder = near(experiment.folder)
                say(console, f"  look:   {command('task=status', status__folder=folder)}")
                say(console, f"  report: {command('task=report', report__folder=folder)}")

    def _sum_up(self, plan: Plan, states: dict[Path, JobState], console: "Console") -> int:
        """The last lines: what failed and why, the counts, and the command that goes on."""
        ends = {planned.job.folder: states.get(planned.job.folder) or _EARLIER[plan.actions[planned.job.folder]]
                for planned in plan.jobs}  # fmt: skip
        failed = [planned for planned in plan.jobs if ends[planned.job.folder] is JobState.FAILED]
        for planned in failed[:10]:
            say(console, f"failed: {planned.job.name}: {_error(planned)} (see {planned.job.folder / 'log.txt'})")
        counts = {state: list(ends.values()).count(state) for state in JobState}
        text = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state] or state is JobState.DONE)
        if not failed and not counts[JobState.INTERRUPTED]:
            say(console, text)
            return OK if not counts[JobState.RUNNING] + counts[JobState.WAITING] else INTERRUPTED
        say(console, f"{text}: {self._command(retry=bool(failed))}")
        return FAILED if failed and not counts[JobState.INTERRUPTED] else INTERRUPTED

    def _command(self, *, retry: bool) -> str:
        """The same command line again, with retry_failed where something failed."""
        given = redact_overrides([*self._typed("task"), *self._typed("hydra")])
        rest = [o for o in given if "hydra.mode" not in o and "hydra.sweeper.retry_failed" not in o]
        flags = ["hydra.sweeper.retry_failed=true"] if retry else []
        return shlex.join(["xp", *rest, *flags, "-m"])


_EARLIER = {
    Action.DONE: JobState.DONE,
    Action.FAILED: JobState.FAILED,
    Action.BLOCKED: JobState.BLOCKED,
    Action.RUN: JobState.WAITING,
    Action.RESUME: JobState.WAITING,
    Action.RETRY: JobState.WAITING,
    Action.RUNNING: JobState.RUNNING,
    Action.QUEUED: JobState.WAITING,
}
_ORDER = (JobState.DONE, JobState.FAILED, JobState.BLOCKED, JobState.INTERRUPTED, JobState.RUNNING, JobState.WAITING)


def _error(planned: PlannedJob) -> str:
    from xp.runs.records.folder import RunFolder

    error = RunFolder(planned.job.folder).record().error_message or "unknown"
    return error.split("\n")[0][:200]


def _on_hub(experiment: Experiment) -> dict[str, Any]:
    """{number: what a job names on a hub}, each once."""
    fields = {str(each["asked"]): dict(each) for planned in experiment.jobs for each in planned.job.hub.values()}
    return {str(number): each for number, each in enumerate(fields.values())}


def _description(experiment: Experiment, arguments: Sequence[str], code: str) -> dict[str, Any]:
    """experiment.json: the stages and jobs in their order, for reports."""
    return {
        "name": experiment.name,
        "overrides": redact_overrides(list(arguments)),
        "settings": experiment.command,
        "hub": _on_hub(experiment),
        "snapshot": code,
        "time": now(),
        "stages": [
            {
                "stage": stage.key,
                "needs": list(stage.needs),
                "jobs": [
                    {
                        "name": planned.job.name,
                        "values": dict(planned.values),
                        "needs": [need.job.name for need in planned.needs],
                        "identity": planned.job.identity,
                    }
                    for planned in experiment.jobs
                    if planned.stage.key == stage.key
                ],
            }
            for stage in experiment.stages
        ],
    }
