"""`record.json`: what a run is, how it stands, where it ran and with which code. One writer at a time."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from xp.atomic import write_json
from xp.errors import UserError
from xp.json_types import JSON, JSONObject, section
from xp.runs.records.heartbeat import beats
from xp.runs.records.json_io import read_object
from xp.versions import DISTRIBUTION, PACKAGES

SCHEMA = 1
"""Version of the layout of record.json and job.json."""

_PACKAGES = ("xp", *PACKAGES)
NODE_VARIABLE = "XP_JOB_NODE"
"""Environment variable in which an executor tells a job what it calls the machine."""


class State(StrEnum):
    """How a run stands.

    An interrupted run is `PENDING` with `interrupted: true` in its record: it waits to be resumed. A record that says
    `RUNNING` while its process is gone (kill -9, power cut) counts as interrupted too: see `Record.standing`.
    """

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Record(Mapping[str, JSON]):
    """A run's record as a read-only mapping; `update` writes it anew, atomically."""

    def __init__(self, path: str | Path, data: JSONObject | None = None):
        self.path = Path(path)
        self._data: dict[str, JSON] = dict(data if data is not None else read_object(self.path, default={}))

    def __getitem__(self, key: str) -> JSON:
        return self._data[key]

    def __iter__(self):
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def update(self, **fields: JSON) -> None:
        """Set fields and write the record."""
        self._data.update(fields)
        write_json(self.path, self._data)

    def text(self, name: str) -> str:
        """A field as text; empty where it is missing or null."""
        value = self.get(name)
        return "" if value is None else str(value)

    @property
    def attempts(self) -> int:
        """How often the run was begun."""
        number = self.get("attempts")
        return number if isinstance(number, int) else 0

    @property
    def error_message(self) -> str:
        """What a failed run said, or else the kind of its error; empty where there is none."""
        error = section(self._data, "error")
        return str(error.get("message") or error.get("type") or "")

    @property
    def state(self) -> State:
        """The state as written; a folder without a record is pending."""
        given = self.get("state", State.PENDING)
        try:
            return State(given)
        except ValueError:
            allowed = ", ".join(State)
            raise UserError(
                f"{self.path} has state {given!r}, which is none of {allowed}. It was written by another version of xp "
                "or by hand; move the run's folder away and run the command again."
            ) from None

    @property
    def interrupted(self) -> bool:
        """True if the run was begun and left before its end, in good order or by a kill."""
        if self.state is State.RUNNING:
            return not self.alive
        return self.state is State.PENDING and bool(self.get("interrupted"))

    @property
    def alive(self) -> bool:
        """True if the process that wrote `running` is at work: seen here, or by its heartbeat if on another host."""
        if self.state is not State.RUNNING:
            return False
        if self.get("host") != socket.gethostname():
            return beats(self.path.parent)
        return is_process(self.get("pid"), self.get("process_start"))

    @property
    def standing(self) -> str:
        """One word for people: a state, or `interrupted`."""
        return "interrupted" if self.interrupted else str(self.state)

    @property
    def seconds(self) -> float | None:
        """Wall-clock time from start to end of the last attempt, where both are known."""
        started, ended = self.text("started"), self.text("ended")
        if not (started and ended):
            return None
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()


def now() -> str:
    """The time as records write it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def process_start(pid: int) -> str | None:
    """When process `pid` started: boot id and clock ticks since boot, so that a recycled pid is told apart.

    None if there is no such process or it is a zombie. Where there is no /proc, a bare existence test.
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] in "ZX":
            return None
        return f"{_boot()}/{fields[19]}"
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "alive"


def is_process(pid: object, start: object) -> bool:
    """Whether the process that was noted by its pid and its start is still there; notes of another form name none."""
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0 or not isinstance(start, str):
        return False
    return process_start(pid) == start


def whereabouts() -> dict[str, JSON]:
    """Host, process and code of the running interpreter, for the record; `node` is the executor's name for the host."""
    return {
        "host": socket.gethostname(),
        "node": os.environ.get(NODE_VARIABLE) or socket.gethostname(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "python": ".".join(map(str, sys.version_info[:3])),
        "git": git_commit(),
        "versions": dict(versions()),
    }


@lru_cache(maxsize=1)
def versions() -> tuple[tuple[str, str], ...]:
    """Versions of the packages that decide results, from the names of their metadata's folders: nothing is imported.

    Packages that bring parts of xp (families, suites, ...) by entry points are among them.
    """
    there: dict[str, str] = {}
    bringing: set[str] = set()
    for place in reversed(sys.path):  # the first on the path is the one that is imported
        with contextlib.suppress(OSError):
            for entry in Path(place or ".").glob("*.dist-info"):
                name, dash, version = entry.name.removesuffix(".dist-info").partition("-")
                if dash:
                    name = name.lower().replace("_", "-").replace(".", "-")
                    there[name] = version
                    if _brings_parts(entry):
                        bringing.add(name)
    there["xp"] = there.get(DISTRIBUTION, "")
    names = (*_PACKAGES, *sorted(bringing - {*_PACKAGES, DISTRIBUTION}))
    return tuple((name, there[name]) for name in names if there.get(name))


def _brings_parts(metadata: Path) -> bool:
    """Whether a distribution declares an entry point in a group of xp's."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return "[xp." in (metadata / "entry_points.txt").read_text("utf-8")
    return False


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Commit of the checkout that xp runs from, with `+changes` if tracked files differ; None outside git."""
    here = Path(__file__).resolve().parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


@lru_cache(maxsize=1)
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
