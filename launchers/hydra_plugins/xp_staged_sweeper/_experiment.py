"""From the command line to all jobs of an experiment: composed, checked, named, joined to what they need."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.xp_staged_sweeper._choices import compose_file
from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._jobs import Composed, Jobs, Rules
from hydra_plugins.xp_staged_sweeper._join import Joinable
from hydra_plugins.xp_staged_sweeper._known_keys import concerns
from hydra_plugins.xp_staged_sweeper._names import Names, hydra_subdir, swept_name
from hydra_plugins.xp_staged_sweeper._stages import (
    NO_VALUE,
    Assignment,
    CommandLine,
    Stage,
    assignments,
    overrides_of,
    parse_stages,
)  # fmt: skip
from hydra_plugins.xp_staged_sweeper._values import bare, flat, safe_name
from xp.errors import UserError, join_names, some
from xp.json_types import section
from xp.runs.execution.run_once import identified, place_of
from xp.runs.jobs import stage_references
from xp.runs.jobs.frozen import Job, Need
from xp.runs.jobs.hub_inputs import pin_frozen
from xp.runs.jobs.identity import Known
from xp.runs.jobs.secrets import redact_overrides
from xp.runs.records.folder import RECORD
from xp.runs.records.json_io import read_object
from xp.runs.records.record import Record, State

EXPERIMENT = "experiment.json"
"""In an experiment's folder: its stages and jobs in their order."""
_LOOKED_THROUGH = 1000
"""Jobs of a stage that are looked through for a value that cannot be meant, once something is wrong."""
_UNNAMED = ("paths.", "logger.", "hydra.")
"""Keys below these say nothing about what a job of a stage is."""


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """One job of the plan, and the planned jobs it needs."""

    job: Job
    stage: Stage
    values: Mapping[str, Any]
    """{swept key: parsed value}."""
    needs: tuple["PlannedJob", ...] = ()
    skip: bool = False


@dataclass
class Experiment:
    """All jobs of one experiment, or of one plain sweep, in an order where needs come first."""

    name: str
    folder: Path
    stages: list[Stage]
    jobs: list[PlannedJob] = field(default_factory=list)
    as_written: bool = False
    """Whether the command line leaves data, models and trainers as the experiment file has them."""
    command: list[str] = field(default_factory=list)
    """The overrides that were typed, sorted, without those of Hydra itself."""
    told_apart: int = 0
    """How many names end in a hash, since a run of other settings has the name without it."""

    partial: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """{typed key: the stages that do not have it and are not told}, of the keys that others have."""


def read_command_line(composer: Composer, arguments: Sequence[str]) -> tuple[list[str | None], CommandLine]:
    """Split overrides into the experiments they name (one None if none) and the rest, by key; the last one wins."""
    single: dict[str, str] = {}
    sweeps: dict[str, tuple[str, ...]] = {}
    experiments: list[str | None] = [None]
    for line, parsed in zip(arguments, composer.parse(arguments)):
        key = parsed.get_key_element()
        if parsed.is_sweep_override():
            if not parsed.is_discrete_sweep():
                raise UserError(
                    f"{line}: an interval cannot be enumerated. Give a list (a,b,c) or range(start,stop,step)."
                )
            values = tuple(parsed.sweep_string_iterator())
        else:
            values = (line.partition("=")[2] if "=" in line else NO_VALUE,)
        if bare(key) == "experiment":
            experiments = list(values)
            continue
        single.pop(key, None)
        sweeps.pop(key, None)
        if len(values) == 1:
            single[key] = values[0]
        else:
            sweeps[key] = values
    implied = {key: value for key, value in _debug_values(composer, single).items() if key not in single}
    return experiments, CommandLine(single={**implied, **single}, sweeps=sweeps, implied=frozenset(implied))


def _debug_values(composer: Composer, single: Mapping[str, str]) -> dict[str, str]:
    """What `debug=NAME` sets, as if typed: asking for a short run must also beat what a stage sets."""
    name = single.get("debug")
    return flat(composer.option("debug", name)) if name not in (None, "null") else {}


def plan_experiment(
    composer: Composer, name: str | None, line: CommandLine, rules: Rules, *, subdir: bool = False
) -> Experiment:
    """Compose and check every job of one experiment; with `subdir`, a plain sweep's are named by hydra.sweep.subdir.

    Raises:
        UserError: the first thing that is wrong with any job of any stage, before anything has started.
    """
    chosen = [f"+experiment={name}"] if name is not None else []
    base, choices = compose_file(composer, chosen, line)
    chosen += choices
    stages = _stages_of(base)
    swept = {key for stage in stages for key in stage.swept}
    typed = {key: value for key, value in line.single.items() if bare(key) not in swept}
    folder = _sweep_folder(composer, [*chosen, *_joined(typed)])
    title = str(OmegaConf.select(base, "experiment.name") or name or "")
    given = {bare(key) for key in (*line.single, *line.sweeps)} - swept
    as_written = all(key == "seed" or key.startswith(_UNNAMED) for key in given)
    experiment = Experiment(name=title, folder=folder, stages=stages, as_written=as_written)
    _pin_commits(experiment, line)
    planner = _Planner(composer, rules, experiment, chosen, line, subdir=subdir)
    for stage in stages:
        experiment.jobs += planner.jobs_of(stage)
    _refuse_doubles(experiment.jobs)
    if not experiment.jobs:
        raise UserError(
            f"The experiment '{experiment.name}' has no job: every stage's `when` is false. See the stages with: "
            f"xp +experiment={name} --cfg job --package stages"
        )
    return experiment


def _pin_commits(experiment: Experiment, line: CommandLine) -> None:
    """Going on with an experiment uses the commits that were frozen with its jobs, wherever the branches are now.

    Sweeps without a name may share one folder: there the commits count for the same command alone.
    """
    pairs = [*line.single.items(), *((key, ",".join(values)) for key, values in line.sweeps.items())]
    own = [f"{key}={value}" for key, value in pairs if not bare(key).startswith(("hydra.", "hydra/"))]
    experiment.command = redact_overrides(sorted(own))
    before = read_object(experiment.folder / EXPERIMENT, default={})
    if experiment.name or before.get("settings") == experiment.command:
        pin_frozen(section(before, "hub"))


def _stages_of(base: DictConfig) -> list[Stage]:
    raw = OmegaConf.to_container(base, resolve=False)
    assert isinstance(raw, dict)
    stages = raw.get("stages")
    return parse_stages(stages) if stages else [Stage(key="sweep", template=False)]


def _joined(pairs: Mapping[str, str]) -> list[str]:
    return [key if value == NO_VALUE else f"{key}={value}" for key, value in pairs.items()]


def _sweep_folder(composer: Composer, overrides: list[str]) -> Path:
    """`hydra.sweep.dir` as composed with these overrides, absolute."""
    config = composer.compose(overrides)
    with open_dict(config):
        config["hydra"] = OmegaConf.to_container(composer.hydra_of(overrides).hydra, resolve=False)
    return Path(os.path.abspath(config.hydra.sweep.dir))  # noqa: PTH100


class _Planner:
    """Plans the jobs of an experiment, one stage after the other."""

    def __init__(
        self,
        composer: Composer,
        rules: Rules,
        experiment: Experiment,
        chosen: list[str],
        line: CommandLine,
        *,
        subdir: bool = False,
    ):
        self._subdir = subdir
        self._composer, self._rules, self._experiment = composer, rules, experiment
        self._chosen, self._line = chosen, line
        self._all_swept = {key for stage in experiment.stages for key in stage.swept}
        told = concerns(composer, experiment.stages, line, chosen, self._all_swept)
        self._lines, experiment.partial = told.lines, told.partial
        self._plain = [stage.key for stage in experiment.stages] == ["sweep"]
        self._answers: dict[tuple[str, ...], Any] = {}
        self._asked: tuple[list[str], DictConfig] = ([], OmegaConf.create())
        """The overrides that `when` or `skip` was last looked up with, mostly those of the next time too; composed."""
        self._jobs = Jobs(composer, rules)
        self._runs: Known = {}
        self._planned: dict[str, Joinable[PlannedJob]] = {}
        self._names = Names(experiment.folder)

    def jobs_of(self, stage: Stage) -> list[PlannedJob]:
        """All jobs of a stage whose `when` holds."""
        mine = self._planned[stage.key] = Joinable()
        for assignment, added in assignments(stage, self._lines[stage.key], self._all_swept):
            if self._holds(stage, "when", stage.when, assignment):
                try:
                    planned = self._plan(stage, assignment, added)
                except UserError:
                    self._refuse_values(stage)
                    raise
                mine.add(planned, planned.values)
        self._experiment.told_apart = self._names.told_apart
        return mine.jobs

    def _refuse_values(self, stage: Stage) -> None:
        """Something does not fit in one job; a value of a later one that cannot be meant at all is told before that."""
        if self._rules.check_values is None:
            return
        for assignment, added in islice(assignments(stage, self._lines[stage.key], self._all_swept), _LOOKED_THROUGH):
            composed, overrides = self._composed(stage, assignment)
            name = self._name(stage, composed, assignment, added, overrides)
            try:
                self._rules.check_values(composed.config)
            except UserError as error:
                raise UserError(f"{self._experiment.name or 'sweep'}, job {name}: {error}") from None

    def _composed(self, stage: Stage, assignment: Assignment) -> tuple[Composed, list[str]]:
        """A job's configuration and overrides. An error carries the stage, whose choices may be what does not fit."""
        overrides = [*self._chosen, *overrides_of(stage, assignment, self._lines[stage.key], self._all_swept)]
        try:
            return self._jobs.compose(stage.key, overrides, {bare(key) for key in assignment}), overrides
        except (HydraException, OmegaConfBaseException) as error:
            error.composed_of = (stage.key, overrides)  # pyright: ignore[reportAttributeAccessIssue] - read by xp.config
            raise

    def _plan(self, stage: Stage, assignment: Assignment, added: Assignment) -> PlannedJob:
        composed, overrides = self._composed(stage, assignment)
        name = self._name(stage, composed, assignment, added, overrides)
        values = {bare(key): self._composer.value(f"{key}={value}") for key, value in assignment.items()}
        needs = self._needs(stage, name, values)
        skip = self._holds(stage, "skip", stage.skip, assignment)
        if composed.is_new:
            self._refuse_unneeded(stage, composed.config)
        try:
            composed.check()
        except UserError as error:
            raise UserError(f"{self._experiment.name or 'sweep'}, job {name}: {error}") from None
        fields: dict[str, Any] = {
            "overrides": overrides,
            "experiment": self._experiment.name,
            "stage": stage.key,
            "needs": tuple(Need(folder=n.job.folder, stage=n.stage.key, identity=n.job.identity) for n in needs),
            "always": stage.always,
        }
        job = self._job(composed, name, fields)
        if self._plain and not self._subdir and (own := self._names.free(name, job.identity)) != name:
            job = self._job(composed, own, fields)
        planned = PlannedJob(job=job, stage=stage, values=values, needs=needs, skip=skip)
        return _as_it_is(planned) if skip else planned

    def _job(self, composed: Composed, name: str, fields: Mapping[str, Any]) -> Job:
        folder = self._experiment.folder / name
        with stage_references.resolving(place_of(folder, fields["needs"])):
            config = composed.resolve()
        return identified(
            config, folder, name=name, result_config=self._rules.result_config, known=self._runs, **fields
        )

    def _holds(self, stage: Stage, key: str, raw: Any, assignment: Assignment) -> bool:
        """Resolve `when` or `skip` in the experiment's configuration: command line and swept values, but no `set`."""
        if isinstance(raw, bool):
            return raw
        named = [k for k in assignment if bare(k) in str(raw)]
        typed = {k: v for k, v in self._line.single.items() if bare(k) not in self._all_swept}
        overrides = [*self._chosen, *_joined({**{k: assignment[k] for k in named}, **typed})]
        question = (stage.key, key, *overrides)
        if question not in self._answers:
            if self._asked[0] != overrides:
                self._asked = (overrides, self._composer.compose(overrides))
            self._answers[question] = OmegaConf.select(self._asked[1], f"stages.{stage.key}.{key}")
        answer = self._answers[question]
        if not isinstance(answer, bool):
            raise UserError(
                f"stages.{stage.key}.{key}={raw} gives {answer!r}: expected true or false. Resolvers such as "
                "${is_null:${key}} and ${not:${key}} give one."
            )
        return answer

    def _name(
        self, stage: Stage, composed: Composed, assignment: Assignment, added: Assignment, overrides: list[str]
    ) -> str:
        if stage.template:
            given = str(OmegaConf.select(composed.named, f"stages.{stage.key}.name"))
            return safe_name(given + "".join(f"-{bare(key)}_{value}" for key, value in added.items()))
        if self._plain and self._subdir:
            return hydra_subdir(self._composer, composed.named, overrides, len(self._planned[stage.key].jobs))
        if self._plain:
            return swept_name(assignment, stage.key)
        words = [f"{bare(key)}_{value}" for key, value in assignment.items() if self._tells(bare(key))]
        return safe_name("-".join([stage.key, *words]))

    def _tells(self, key: str) -> bool:
        return not (self._rules.is_transient(key) or f"{key}.".startswith(_UNNAMED))

    def _needs(self, stage: Stage, name: str, values: Mapping[str, Any]) -> tuple[PlannedJob, ...]:
        """The jobs of the needed stages that agree with this one on the keys both sweep."""
        found: list[PlannedJob] = []
        for need in stage.needs:
            jobs = self._planned[need].jobs
            fitting = self._planned[need].fitting(values)
            if jobs and not fitting:
                shared = {key: values[key] for key in values if key in jobs[0].values}
                raise UserError(
                    f"The job {name} of stage '{stage.key}' needs a job of stage '{need}' with "
                    f"{join_names(f'{key}={value}' for key, value in shared.items())}, and there is none; '{need}' has "
                    f"{some(planned.job.name for planned in jobs)}. Give both stages the same values."
                )
            found += fitting
        return tuple(found)

    def _refuse_unneeded(self, stage: Stage, config: DictConfig) -> None:
        plain = OmegaConf.to_container(config, resolve=False)
        assert isinstance(plain, dict)
        for key, wanted in stage_references.deferred_stages(plain).items():  # type: ignore[arg-type]
            if wanted not in stage.needs:
                raise UserError(
                    f"{key} of stage '{stage.key}' is taken from the best run of stage '{wanted}', which it does not "
                    f"need. Add '{wanted}' to stages.{stage.key}.needs"
                )


def _as_it_is(planned: PlannedJob) -> PlannedJob:
    """A job of a skipped stage: whatever finished run is in its folder, with the identity that run has."""
    record = Record(planned.job.folder / RECORD)
    if record.state is not State.DONE or not record.get("identity"):
        raise UserError(
            f"The stage '{planned.stage.key}' is skipped, so its finished runs are used as they are; but "
            f"{planned.job.folder} is {record.standing if record else 'not there'}. Run the stage first: leave out the "
            "override that skips it."
        )
    from dataclasses import replace

    return replace(planned, job=replace(planned.job, identity=record["identity"]))


def _refuse_doubles(jobs: Sequence[PlannedJob]) -> None:
    seen: dict[Path, PlannedJob] = {}
    for planned in jobs:
        other = seen.setdefault(planned.job.folder, planned)
        if other is not planned:
            ways = [" ".join(each.job.overrides) for each in (other, planned)]
            raise UserError(
                f"Two jobs have the name '{planned.job.name}': ({ways[0]}) and ({ways[1]}). Put a key that tells them "
                f"apart into stages.{planned.stage.key}.name (of a plain sweep: hydra.sweep.subdir), such as ${{seed}}."
            )
