"""Submissions on disk: one job spec per call of sbatch, and the lock under which job specs are made and withdrawn.

`EXPERIMENT/.slurm/TOKEN.json` names the jobs of a submission, is there before sbatch is called, and outlives whoever
called it. A job spec that lists a job in `withdrawn` gives that job's tasks no right to start. Only who holds the
experiment's lock writes job specs.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hydra_plugins.xp_slurm_launcher._protocol import Attempt
from xp.atomic import write_json
from xp.errors import UserError
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.text import printable
from xp.json_types import JSONObject
from xp.runs.records.json_io import explain_write_errors, read_object

SUBMISSIONS = ".slurm"
"""Folder of an experiment with its job specs, scripts and outputs."""
ATTEMPT = ".slurm_attempt.json"
"""In a run's folder: which incarnation of the job began last."""
_TOKEN = re.compile(r"xp-[A-Za-z0-9_.-]{1,80}-[0-9a-f]{8}")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class JobSpec:
    """One submission: the jobs that one call of sbatch handed in."""

    path: Path
    token: str
    """The name of its jobs in SLURM's queue, like no other."""
    number: int
    """Later job specs have larger numbers."""
    names: tuple[str, ...]
    """Names of the jobs' folders; a job's place is its index in the array."""
    withdrawn: frozenset[int] = frozenset()
    job_id: str | None = None
    """SLURM's id; None as long as nobody has heard it."""
    settings: JSONObject | None = None

    @property
    def experiment(self) -> Path:
        """The folder of the jobs' experiment."""
        return self.path.parent.parent

    @property
    def folders(self) -> list[Path]:
        """The jobs' folders, withdrawn ones included."""
        return [self.experiment / name for name in self.names]

    def handle(self, index: int) -> str:
        """The handle of one of its jobs; empty as long as the job spec has no id. A single job is no array."""
        if self.job_id is None:
            return ""
        return self.job_id if len(self.names) == 1 else f"{self.job_id}_{index}"

    def valid(self) -> dict[Path, int]:
        """{folder: index} of the jobs that were not withdrawn."""
        return {folder: index for index, folder in enumerate(self.folders) if index not in self.withdrawn}

    def write(self) -> "JobSpec":
        """Store it; only under the experiment's lock."""
        content = {
            "token": self.token, "number": self.number, "job_id": self.job_id, "jobs": list(self.names),
            "withdrawn": sorted(self.withdrawn), **(self.settings or {}),
        }  # fmt: skip
        with explain_write_errors(self.path.parent):
            write_json(self.path, content)
        return self

    def without(self, indices: frozenset[int]) -> "JobSpec":
        """The job spec with more of its jobs withdrawn, stored."""
        return replace(self, withdrawn=self.withdrawn | indices).write() if indices - self.withdrawn else self


def new_job_spec(experiment: Path, number: int, stage: str, names: Sequence[str], settings: JSONObject) -> JobSpec:
    """A job spec that is not stored yet."""
    token = f"xp-{safe(stage) or 'jobs'}-{secrets.token_hex(4)}"
    return JobSpec(experiment / SUBMISSIONS / f"{token}.json", token, number, tuple(names), settings=settings)


def next_number(experiment: Path) -> int:
    """A number above those of all job specs of an experiment."""
    return 1 + max((job_spec.number for job_spec in job_specs(experiment)), default=0)


def safe(text: str) -> str:
    """A stage's or job's name as it may stand in a queue, a file name and a script."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:40]


def read_job_spec(path: Path) -> JobSpec:
    """A job spec as its file says.

    Raises:
        UserError: it is missing, damaged, or names folders outside its experiment.
    """
    fields = read_fields(path, "a submission to SLURM")
    names = fields.texts("jobs")
    if any(name != Path(name).name or name in ("", ".", "..") or "\0" in name for name in names):
        raise fields.refusal("jobs", "names of folders beside .slurm")
    token, job_id = fields.text("token"), fields.text("job_id", "")
    if not _TOKEN.fullmatch(token) or token != path.stem:
        raise fields.refusal("token", "the file's own name")
    if job_id and not re.fullmatch(r"[0-9]{1,12}", job_id):
        raise fields.refusal("job_id", "SLURM's number")
    known = {"token", "number", "job_id", "jobs", "withdrawn"}
    settings = {key: value for key, value in fields.content.items() if key not in known}
    withdrawn = frozenset(fields.integers("withdrawn", []))
    return JobSpec(path, token, fields.integer("number", 0, low=0), tuple(names), withdrawn, job_id or None, settings)


def job_specs(experiment: Path, naming: str | None = None) -> list[JobSpec]:
    """All job specs of an experiment, the oldest first; damaged ones are passed over (their jobs cannot start either).

    Args:
        experiment: its folder.
        naming: only those that hold a job of this name.
    """
    found = []
    for path in (experiment / SUBMISSIONS).glob("xp-*.json"):
        with suppress(UserError, OSError):
            if naming is None or json.dumps(naming).encode() in path.read_bytes():
                found.append(read_job_spec(path))
    return sorted(found, key=lambda job_spec: (job_spec.number, job_spec.token))


def valid_job_specs(experiment: Path) -> dict[Path, tuple[JobSpec, int]]:
    """{folder: (its latest job spec that was not withdrawn for it, its index there)}."""
    return {
        folder: (job_spec, index) for job_spec in job_specs(experiment) for folder, index in job_spec.valid().items()
    }


def last_attempt(folder: Path) -> Attempt | None:
    """Which attempt of a job began last; None if none has."""
    noted = Fields(read_object(folder / ATTEMPT, default={}), printable(folder / ATTEMPT))
    if not noted.content:
        return None
    return Attempt(noted.text("token"), noted.text("job_id"), noted.integer("restarts"))


def note_attempt(folder: Path, attempt: Attempt) -> None:
    """Write down that an attempt begins; only under the run's lock."""
    write_json(folder / ATTEMPT, {"token": attempt.token, "job_id": attempt.job_id, "restarts": attempt.restarts})


_held: dict[Path, int] = {}


def lock_descriptor(experiment: Path) -> tuple[int, ...]:
    """The lock's file descriptor, for a child that must hold the lock as long as it lives."""
    held = _held.get(Path(os.path.abspath(experiment)))  # noqa: PTH100
    return () if held is None else (held,)


@contextmanager
def submission_lock(experiment: Path) -> Iterator[None]:
    """Hold the lock under which jobs of an experiment are submitted, withdrawn and cancelled; waits for it.

    It is flock's: sbatch inherits it, so it stays held while an sbatch whose caller was killed is still under way. The
    system drops it when its last holder dies; so does the server of a network file system.
    """
    experiment = Path(os.path.abspath(experiment))  # noqa: PTH100
    if experiment in _held:
        yield
        return
    folder = experiment / SUBMISSIONS
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _take(descriptor, experiment)
        _held[experiment] = descriptor
        yield
    finally:
        _held.pop(experiment, None)
        os.close(descriptor)


def _take(descriptor: int, experiment: Path) -> None:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = printable(os.pread(descriptor, 200, 0).decode(errors="replace").strip())
            print(f"xp: waiting for {who or 'another command'}, which hands in jobs of {experiment}", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return  # a file system without locks: the later job spec decides (`_protocol.may_start`)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
