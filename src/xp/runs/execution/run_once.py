"""A single run: find or make its folder, and decide between starting, resuming, skipping and refusing."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from xp.atomic import plain
from xp.config.more_steps import refuse_nothing_to_extend
from xp.errors import UserError, join_names
from xp.json_types import JSON, JSONObject, section
from xp.nested import dotted
from xp.runs.execution.execute import execute, exit_code
from xp.runs.execution.more_steps import is_extension, with_extensions
from xp.runs.execution.run import Run
from xp.runs.jobs import stage_references
from xp.runs.jobs.frozen import Job, Need, freeze, open_job, to_yaml
from xp.runs.jobs.hub_inputs import fetch_inputs, pin_folder, with_local_paths
from xp.runs.jobs.identity import SHOWN, Known, differing_keys, identity, referenced_runs
from xp.runs.jobs.inputs import refuse_changed
from xp.runs.jobs.secrets import redact, redact_overrides
from xp.runs.records.folder import JOB, RECORD
from xp.runs.records.json_io import read_object
from xp.runs.records.lock import Busy, locked
from xp.runs.records.record import Record, State

STOCK = "hydra"
"""The executor's name in jobs that a launcher of Hydra's own will run."""
ResultConfig = Callable[[JSONObject], JSONObject]


def run_once(
    config: DictConfig,
    folder: str | Path,
    overrides: Sequence[str],
    task: Callable[[Run], None],
    *,
    generated: bool | None = None,
    result_config: ResultConfig | None = None,
) -> int:
    """`start_run`, then `execute`; gives the exit code: 0 done or skipped, 1 failed, 2 user's mistake, 128 + signal."""
    place = start_run(config, folder, overrides, generated=generated, result_config=result_config)
    if place is None:
        return 0
    state = execute(place, task)
    print(f"{state}: {place}")
    return exit_code(place)


def start_run(
    config: DictConfig,
    folder: str | Path,
    overrides: Sequence[str] = (),
    *,
    generated: bool | None = None,
    result_config: ResultConfig | None = None,
    hydra_yaml: str | None = None,
) -> Path | None:
    """Freeze one configuration into its folder, ready for `execute`; None (and a line) if it is done already.

    A folder that holds the same run, begun or failed, is resumed; one that holds another run is refused, but for a
    training that is done and is given more steps (`xp.runs.execution.more_steps`). A job that the
    staged sweeper froze for a stock launcher is run as it was frozen, whatever composing gives now.

    Args:
        config: composed, without the `hydra` section; interpolations are resolved here.
        folder: where the run lives.
        overrides: the command line, for the record.
        generated: `folder` is a default name (with a time in it): if it is taken, a number is put behind it instead.
            Default: true unless `overrides` set hydra.run.dir.
        result_config: gives the part of a configuration that identity is about; default `xp.config.result_config`.
        hydra_yaml: text for `.hydra/hydra.yaml`; default: Hydra's configuration, if Hydra is at work.
    """
    place = _run_folder(folder)
    if _is_frozen(place, overrides):
        return place
    if generated is None:
        generated = not any(override.lstrip("+").startswith("hydra.run.dir=") for override in overrides)
    hydra_yaml = hydra_yaml or _hydra_yaml()
    pin_folder(place)
    result_config = result_config or _result_config
    job = compose_job(config, place, overrides=overrides, result_config=result_config)
    if generated:
        refuse_nothing_to_extend(job.config, "a new folder")
        fetch_inputs([job])
        return _claim(job, hydra_yaml)
    extended = with_extensions(config, job, result_config)
    if extended is not config:
        job = compose_job(extended, place, overrides=overrides, result_config=result_config)
    if not _continue(job, result_config):
        print(f"skipped: already done ({place}, identity {job.identity[:SHOWN]})")
        return None
    fetch_inputs([job])
    with locked(place):
        freeze(job, hydra_yaml=hydra_yaml)
    return place


def _run_folder(folder: str | Path) -> Path:
    """Where the run lives, after making sure that nothing else does.

    Raises:
        UserError: the path is empty, names a file, or a folder that holds something other than a run.
    """
    if not str(folder).strip():
        raise UserError("hydra.run.dir is empty. Give a folder for the run: hydra.run.dir=FOLDER, or leave it out.")
    place = Path(os.path.abspath(folder))  # noqa: PTH100
    if place.exists() and not place.is_dir():
        raise UserError(f"hydra.run.dir={folder}: this is a file, and a run needs a folder: hydra.run.dir=FOLDER")
    if place.is_dir() and not ((place / JOB).exists() or (place / RECORD).exists()):
        others = sorted(entry.name for entry in place.iterdir() if not _of_hydra(entry))
        if others:
            raise UserError(
                f"hydra.run.dir={folder}: this folder holds something other than a run ({join_names(others[:4])}"
                f"{', ...' if len(others) > 4 else ''}). Give a new or an empty folder: hydra.run.dir=FOLDER"
            )
    return place


def _of_hydra(entry: Path) -> bool:
    """What Hydra and its launchers write into a job's folder before the job starts."""
    return entry.name.startswith(".") or entry.suffix == ".log"


def _is_frozen(folder: Path, overrides: Sequence[str]) -> bool:
    """Whether a sweep froze exactly this job here for a stock launcher, which now composes it a second time."""
    frozen = read_object(folder / JOB, default={})
    if frozen.get("executor") != STOCK or Record(folder / RECORD).state is not State.PENDING:
        return False
    return frozen["overrides"] == redact_overrides([o for o in overrides if not o.startswith("hydra.")])


class JobFields(TypedDict, total=False):
    """Fields of a `Job` beside folder, configuration, identity, overrides and what is used; as there."""

    name: str
    experiment: str
    stage: str
    needs: tuple[Need, ...]
    snapshot: str | None
    always: bool


def compose_job(
    config: DictConfig,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    result_config: ResultConfig,
    **fields: Unpack[JobFields],
) -> Job:
    """Resolve a composed configuration into a job in `folder`, and give it its identity."""
    with stage_references.resolving(place_of(folder, fields.get("needs", ()))):
        plain_config = resolved(config)
    return identified(plain_config, folder, overrides=overrides, result_config=result_config, **fields)


def place_of(folder: Path, needs: Sequence[Need]) -> stage_references.ResolveContext:
    """Where a job stands while its configuration is resolved."""
    found: dict[str, list[str]] = {}
    for need in needs:
        found.setdefault(need.stage, []).append(str(need.folder))
    return stage_references.ResolveContext(str(folder), {stage: tuple(folders) for stage, folders in found.items()})


def identified(
    config: dict[str, JSON],
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    result_config: ResultConfig,
    known: Known | None = None,
    **fields: Unpack[JobFields],
) -> Job:
    """The job of a resolved plain configuration; ids of a hub in it become the folders where their files will be.

    `known` remembers, for many jobs, which paths are in runs.
    """
    part = dotted(result_config(config))
    config, hub = with_local_paths(config, part)
    if hub:
        part = dotted(result_config(config))
    job = Job(folder=folder, config=config, identity="", overrides=tuple(overrides), hub=hub, **fields)
    runs = job.known_runs
    uses = {run: its for run, its in referenced_runs(part, known).items() if run not in runs}
    return dataclasses.replace(job, uses=uses, identity=identity(part, {**uses, **runs}))


def resolved(config: DictConfig) -> dict[str, JSON]:
    """All values of a configuration; what a resolver has to say to the user comes out as it said it."""
    try:
        content: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationResolutionError as error:
        raise _said_by_resolver(error) from None
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value yet ('???'). Give one: {error.full_key}=VALUE") from None
    return content


def _said_by_resolver(error: BaseException) -> BaseException:
    """The `UserError` behind an error of OmegaConf, if there is one; else the error itself."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, UserError):
            return behind
        behind = behind.__cause__ or behind.__context__
    return error


def compare(job: Job, result_config: ResultConfig, record: Record | None = None) -> Record:
    """The record of what is in the job's folder (or `record`, read before), after making sure it is the same run.

    Raises:
        UserError: the folder holds a run of another identity; names the keys that differ, with both values.
    """
    record = Record(job.folder / RECORD) if record is None else record
    known = record.get("identity")
    if known is None or known == job.identity:
        refuse_changed(job.folder, job.config)
        return record
    old = open_job(job.folder)
    differences = differing_keys(result_config(old.config), result_config(job.config), old.known_runs, job.known_runs)
    shown = "; ".join(map(str, differences[:8])) or _other_needs(old, job)
    more = f"; and {len(differences) - 8} more" if len(differences) > 8 else ""
    raise UserError(
        f"{job.folder} holds another run ({str(known)[:SHOWN]}, {record.standing}; this one is "
        f"{job.identity[:SHOWN]}). They differ in {shown}{more} (there -> here). Give the same values to resume it; "
        "give this one another place (hydra.run.dir=FOLDER for a run, hydra.sweep.dir=FOLDER for a sweep or "
        "experiment); or remove that folder."
    )


def _other_needs(old: Job, job: Job) -> str:
    before = {need.folder.name: need.identity[:SHOWN] for need in old.needs}
    after = {need.folder.name: need.identity[:SHOWN] for need in job.needs}
    changed = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    return f"the runs they need ({', '.join(changed) or 'other inputs'})"


def _continue(job: Job, result_config: ResultConfig) -> bool:
    """Whether there is anything to do in a folder that the user named."""
    if not (job.folder / JOB).exists():
        return True
    record = Record(job.folder / RECORD)
    if is_extension(job, record, result_config) and record.get("identity") != job.identity:
        refuse_changed(job.folder, job.config)
        return True
    compare(job, result_config, record)
    if record.alive:
        raise Busy(
            f"Process {record['pid']} on {record['host']} is at work on this run ({job.folder}). Wait for it "
            "(xp task=status shows it), or end that process."
        )
    return record.state is not State.DONE


def _claim(job: Job, hydra_yaml: str | None) -> Path:
    """Freeze into the first free folder NAME, NAME_2, NAME_3 ...: two runs of one second never share one."""
    for place in numbered(job.folder):
        moved_config = {key: _moved(value, str(job.folder), str(place)) for key, value in job.config.items()}
        moved = dataclasses.replace(job, folder=place, config=moved_config)
        try:
            freeze(moved, hydra_yaml=hydra_yaml, new=True)
        except FileExistsError:
            continue
        return place
    raise AssertionError("the names end with an error")


def numbered(folder: Path) -> Iterator[Path]:
    """`folder`, and after it the same name with a number: NAME, NAME_2, NAME_3 ...

    Raises:
        UserError: more of them were asked for than anybody has.
    """
    yield folder
    for number in range(2, 10_000):
        yield folder.with_name(f"{folder.name}_{number}")
    raise UserError(f"{folder} and 9999 folders of that name with a number are taken. Clear out old runs.")


def _moved(node: JSON, old: str, new: str) -> JSON:
    """Paths inside the run's own folder follow it."""
    if isinstance(node, Mapping):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(old + os.sep)):
        return new + node[len(old) :]
    return node


def _result_config(config: JSONObject) -> JSONObject:
    from xp.config import result_config

    return result_config(config)


def _hydra_yaml() -> str | None:
    if "hydra.core.hydra_config" not in sys.modules:
        return None
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    content: Any = OmegaConf.to_container(HydraConfig.instance().cfg, resolve=False)
    clean, found = redact(plain({**content}))
    given: Mapping[str, Sequence[str]] = content["hydra"]["overrides"]
    overrides = {kind: redact_overrides(given[kind], found.values()) for kind in ("task", "hydra")}
    hydra = {**section(clean, "hydra"), "overrides": {**section(section(clean, "hydra"), "overrides"), **overrides}}
    return to_yaml({**clean, "hydra": hydra})
