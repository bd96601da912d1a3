"""Frozen jobs: `job.json` holds everything a worker needs, composed once, with a hash over it.

Whoever runs the job runs exactly this: no YAML file, environment variable or override is read again.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xp.atomic import plain, write_json, write_text
from xp.errors import UserError
from xp.foreign.json_file import Fields
from xp.foreign.text import printable
from xp.json_types import JSON, JSONObject, section
from xp.runs.jobs.identity import SELF
from xp.runs.jobs.secrets import redact, redact_overrides
from xp.runs.records.folder import CONFIG, JOB, RECORD
from xp.runs.records.json_io import explain_write_errors, read_object
from xp.runs.records.record import SCHEMA, Record, State, now


@dataclass(frozen=True, kw_only=True)
class Need:
    """A run that must be done before a job starts."""

    folder: Path
    stage: str
    identity: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run waiting for or having a machine: one resolved configuration and its one folder."""

    folder: Path
    config: dict[str, JSON]
    """Plain and resolved; only values from finished stages (`xp.runs.jobs.stage_references`) may still be text."""
    identity: str
    name: str = ""
    experiment: str = ""
    stage: str = ""
    needs: tuple[Need, ...] = ()
    uses: Mapping[str, str] = field(default_factory=dict)
    """{folder: identity} of runs that the configuration names a path in, beside `needs`."""
    overrides: tuple[str, ...] = ()
    snapshot: str | None = None
    """Hash of the code at the time of freezing; the code itself is in the experiment's `.code/HASH`."""
    always: bool = False
    """Run even if some of the needed jobs failed (a report of what there is)."""
    hub: Mapping[str, JSONObject] = field(default_factory=dict)
    """{key: what it names on a hub} (`xp.hub.inputs.frozen_fields`): the id as it was asked for, and its commit."""

    @property
    def known_runs(self) -> dict[str, str]:
        """{folder: identity} of all runs whose paths count by identity; this one's own as `SELF`.

        Folders with files of a hub are among them, as `hf://ORG/NAME@COMMIT`.
        """
        needed = {str(need.folder): need.identity for need in self.needs}
        of_hub = {str(each["folder"]): f"{each['repository']}@{each['commit']}" for each in self.hub.values()}
        return {**self.uses, **needed, **of_hub, str(self.folder): SELF}

    @property
    def task(self) -> str:
        """The name of the job's task."""
        return str(section(self.config, "task").get("name", ""))


_secrets: dict[str, dict[str, str]] = {}


def secrets_of(folder: Path) -> dict[str, str]:
    """{dotted key: value} of what this process left out of the files of `folder` when it froze the job there."""
    return _secrets.get(str(folder), {})


def freeze(job: Job, *, executor: str = "", hydra_yaml: str | None = None, new: bool = False) -> None:
    """Write a job into its folder: job.json, config.json, record.json and Hydra's customary `.hydra/*.yaml`.

    Args:
        job: what to write; its secrets are left out of every file and kept in memory (`secrets_of`).
        executor: name of the executor that will run it.
        hydra_yaml: text of `.hydra/hydra.yaml`, where there is one.
        new: the folder must not hold a job yet.

    Raises:
        FileExistsError: `new`, and the folder holds a job already (nothing is changed then).
        UserError: the folder cannot be written.
    """
    config, _secrets[str(job.folder)] = redact(plain(job.config))
    overrides = redact_overrides(job.overrides, _secrets[str(job.folder)].values())
    content = _content(job, config, executor, overrides)
    with explain_write_errors(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
        _write_job(job.folder / JOB, content, new)
        write_json(job.folder / CONFIG, config)
        _pend(job, executor)
        _write_hydra(job.folder / ".hydra", config, overrides, hydra_yaml)


def open_job(folder: Path) -> Job:
    """Read a frozen job back.

    Raises:
        UserError: there is none, it is damaged, or its content is not what its hash says.
    """
    content = read_object(folder / JOB)
    given = content.pop("sha256", None)
    if given is None or given != _sha256(content):
        raise UserError(
            f"{folder / JOB} was changed after it was frozen (its sha256 does not fit its content), so it will not be "
            "run. Put the file back as it was, or remove the folder and start the run again."
        )
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{folder / JOB} has layout {content.get('schema')!r}; this version of xp reads layout {SCHEMA}. Run it "
            "with the version that wrote it, or remove the folder and start the run again."
        )
    noted = Fields(content, printable(folder / JOB))
    return Job(
        folder=folder,
        config=dict(noted.object("config").content),
        identity=noted.text("identity"),
        name=noted.text("name"),
        experiment=noted.text("experiment"),
        stage=noted.text("stage"),
        needs=tuple(
            Need(folder=_back(need.text("folder"), folder), stage=need.text("stage"), identity=need.text("identity"))
            for need in noted.list_of_objects("needs")
        ),
        uses={run: identity for run, identity in noted.object("uses").content.items() if isinstance(identity, str)},
        overrides=tuple(noted.texts("overrides")),
        snapshot=noted.text("snapshot", None),
        always=noted.flag("always"),
        hub={key: each.content for key, each in (noted.object("hub").objects() if "hub" in content else ())},
    )


def _content(job: Job, config: dict[str, JSON], executor: str, overrides: list[str]) -> dict[str, JSON]:
    content: dict[str, JSON] = {
        "schema": SCHEMA,
        "name": job.name or job.folder.name,
        "task": job.task,
        "identity": job.identity,
        "experiment": job.experiment,
        "stage": job.stage,
        "executor": executor,
        "snapshot": job.snapshot,
        "always": job.always,
        "needs": [
            {"folder": _towards(need.folder, job.folder), "stage": need.stage, "identity": need.identity}
            for need in job.needs
        ],
        "uses": dict(job.uses),
        **({"hub": dict(job.hub)} if job.hub else {}),
        "overrides": overrides,
        "config": config,
    }
    content["sha256"] = _sha256(content)
    return content


def _sha256(content: JSONObject) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _towards(target: Path, folder: Path) -> str:
    """Needed folders are written relative to the job's own, so that an experiment's folder can be moved whole."""
    return os.path.relpath(target, folder)


def _back(target: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / target))


def _write_job(path: Path, content: JSONObject, new: bool) -> None:
    if not new:
        write_json(path, content)
        return
    temporary = path.with_name(f".{JOB}.tmp-{os.getpid()}")
    try:
        write_json(temporary, content)
        os.link(temporary, path)  # fails if the name is taken: two runs never share a folder
    finally:
        temporary.unlink(missing_ok=True)


def _pend(job: Job, executor: str) -> None:
    """Mark the run as waiting, keeping what earlier attempts noted."""
    record = Record(job.folder / RECORD)
    begun = record.interrupted or record.state in (State.FAILED, State.CANCELLED, State.DONE)
    record.update(
        schema=SCHEMA,
        name=job.name or job.folder.name,
        task=job.task,
        identity=job.identity,
        experiment=job.experiment,
        stage=job.stage,
        executor=executor,
        snapshot=job.snapshot,
        state=State.PENDING,
        interrupted=begun,
        handle=None,
        attempts=record.attempts,
        created=record.get("created") or now(),
        **({"hub": dict(job.hub)} if job.hub else {}),
    )


def _write_hydra(folder: Path, config: dict[str, JSON], overrides: list[str], hydra_yaml: str | None) -> None:
    write_text(folder / "config.yaml", to_yaml(config), durable=False)
    write_text(folder / "overrides.yaml", to_yaml(overrides), durable=False)
    if hydra_yaml is not None:
        write_text(folder / "hydra.yaml", hydra_yaml, durable=False)


def to_yaml(content: JSON) -> str:
    """YAML text of plain content, by libyaml where it is there (ten times faster)."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True)
