"""The keeper's files, in `EXPERIMENT/.keeper`: what was submitted, how it stands, who is asked to leave.

Written by the controller: `queue.json` (settings and jobs), `requests/*.json` while a keeper is at work.
Written by the keeper: `state.json`. Whether a keeper is at work is told by a lock that the system drops with it.
No secret is ever written here: what `xp.runs.jobs.secrets` takes for one is left out, and a keeper gets it through its
input or its door (`_door`). One that was started without them says which are missing and starts no job.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from hydra_plugins.xp_ssh_launcher._lease_queue import SavedJob
from hydra_plugins.xp_ssh_launcher._settings import Settings, settings_of
from xp.atomic import write_json
from xp.errors import UserError
from xp.foreign.json_file import Fields
from xp.json_types import JSON, section
from xp.runs.executors.protocol import Submission
from xp.runs.jobs.secrets import redact, redacted_keys, restore
from xp.runs.records.folder import JOB
from xp.runs.records.json_io import read_json, read_object

FOLDER = ".keeper"
HANDING_S = 60.0
"""Longest wait for another controller that hands jobs over, which takes a moment."""
_LINE = 1000
"""Bytes that are kept for a line about a full disk."""


class SeenHost(TypedDict):
    """A host in `state.json`."""

    standing: str
    line: str
    """What is wrong with it; empty if nothing is."""
    local: bool


class KeeperState(TypedDict, total=False):
    """`state.json`: how everything stands."""

    time: float
    pid: int
    jobs: Mapping[str, SavedJob]
    hosts: Mapping[str, SeenHost]
    ready: bool
    """Whether every host was met."""
    trouble: list[str]
    """What keeps all hosts from work, a line each."""
    missing: list[str]
    """Dotted keys of settings whose secrets are missing."""
    door: str
    """Where secrets are taken (`_door`)."""


@dataclass(frozen=True)
class SubmitRequest:
    """More jobs for the keeper at work."""

    jobs: list[Submission]


@dataclass(frozen=True)
class CancelRequest:
    """Jobs that are to write a checkpoint and leave within `grace_s` seconds."""

    folders: list[Path]
    grace_s: float


class KeeperStore:
    """The files of one experiment's keeper."""

    def __init__(self, experiment: Path):
        self.experiment = experiment
        self.folder = experiment / FOLDER
        self.log = self.folder / "keeper.log"
        self._keys: int | None = None

    @property
    def mark(self) -> Path:
        """A file with a random text: a node that can read it shares this file system."""
        return self.folder / "id.json"

    def identity(self) -> str:
        """The random text that tells this experiment from others at the same path elsewhere; made when first asked."""
        if not self.mark.exists():
            write_json(self.mark, secrets.token_hex(16))
        return str(read_json(self.mark))

    @contextmanager
    def submission_lock(self) -> Iterator[None]:
        """One controller at a time, and no keeper that is just about to end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + HANDING_S
        with (self.folder / "submit.lock").open("w") as lock:
            while not _locked(lock.fileno(), self.folder):
                if time.monotonic() > until:
                    raise UserError(
                        f"Another xp has been handing jobs over in {self.experiment} for {HANDING_S:.0f} s (who: "
                        f"fuser {self.folder}/submit.lock). Wait for it, or end it, and give the command again."
                    )
                time.sleep(0.05)
            yield

    def acquire_keeper_lock(self) -> int | None:
        """Become the keeper until `leave` or the end of the process: a descriptor; None if there is one already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            taken = _locked(descriptor, self.folder)
        except BaseException:
            os.close(descriptor)
            raise
        if not taken:
            os.close(descriptor)
            return None
        self._keys = descriptor
        return descriptor

    def leave(self) -> None:
        """Be the keeper no longer."""
        if self._keys is not None:
            os.close(self._keys)
            self._keys = None

    @property
    def attended(self) -> bool:
        """Whether a keeper is at work."""
        if not (self.folder / "keeper.lock").exists():
            return False
        try:
            taken = self.acquire_keeper_lock() is not None
        except (OSError, UserError):
            return True  # somebody else's folder: nobody can tell from here
        self.leave()
        return not taken

    def write_queue(self, settings: Settings, jobs: Sequence[Submission]) -> None:
        """Put down what a new keeper finds; jobs of an earlier queue that have not ended stay in it."""
        path = self.folder / "queue.json"
        earlier = Fields(read_object(path, default={"jobs": []}), str(path)).list_of_objects("jobs")
        states = self.state().get("jobs", {})
        new = {str(job.folder): _plain(job) for job in jobs}
        kept = {folder: {**entry.content, "handle": folder} for entry in earlier
                if (folder := entry.text("folder")) in states
                and states[folder]["state"] in ("waiting", "running")}  # fmt: skip
        clean, _ = redact(settings.to_json())
        content = {"settings": clean, "cwd": str(Path.cwd()), "jobs": list({**kept, **new}.values())}
        _write_private(path, content)

    def _queue(self) -> Fields:
        path = self.folder / "queue.json"
        return Fields(read_object(path), str(path))

    def working_folder(self) -> str:
        """Where the command was given that made the queue."""
        return self._queue().text("cwd")

    def queue(self) -> list[Submission]:
        """What was submitted; jobs whose folders are gone are left out."""
        jobs = self._queue().list_of_objects("jobs")
        return _in_order([_submission(each) for each in jobs if (Path(each.text("folder")) / JOB).exists()])

    def settings(self, secrets: Mapping[str, str]) -> tuple[Settings, list[str]]:
        """The settings with the given secrets, {dotted key: value}, and the dotted keys of those that are missing."""
        content = restore(dict(self._queue().object("settings").content), secrets)
        missing = redacted_keys(content)
        content["env"] = {k: value for k, value in section(content, "env").items() if f"env.{k}" not in missing}
        return settings_of(**content), missing

    def request(self, **what: JSON) -> None:
        """Ask the keeper at work for something."""
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        _write_private(self.folder / "requests" / name, what)

    def request_submission(self, jobs: Sequence[Submission]) -> None:
        """Hand more jobs to the keeper at work."""
        self.request(do="submit", jobs=[_plain(job) for job in jobs])

    def requests(self) -> list[SubmitRequest | CancelRequest]:
        """Take what was asked for since the last call, in order."""
        found: list[SubmitRequest | CancelRequest] = []
        folder = self.folder / "requests"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            what = Fields(read_object(path), str(path))
            path.unlink()
            if what.text("do") == "submit":
                found.append(SubmitRequest([_submission(each) for each in what.list_of_objects("jobs")]))
            else:
                folders = [Path(folder) for folder in what.texts("folders")]
                found.append(CancelRequest(folders, what.number("grace_s")))
        return found

    def state(self) -> KeeperState:
        """How everything stood when a keeper last wrote it down; empty if none has."""
        return cast(KeeperState, read_object(self.folder / "state.json", default={}))

    def write_state(
        self,
        jobs: Mapping[str, SavedJob],
        hosts: Mapping[str, SeenHost],
        *,
        ready: bool,
        trouble: list[str],
        missing: list[str],
        door: str,
    ) -> None:
        """Say how everything stands; see `KeeperState`."""
        content = KeeperState(time=time.time(), pid=os.getpid(), hosts=hosts, ready=ready, trouble=trouble,
                              missing=missing, door=door, jobs=jobs)  # fmt: skip
        write_json(self.folder / "state.json", content, durable=False)

    def reserve(self) -> None:
        """Make room for one line that can be written on a full disk as well."""
        with contextlib.suppress(OSError):
            _write_in_place(self.folder / "trouble.txt", "")

    def say(self, line: str) -> None:
        """Put down what keeps the keeper from writing anything else, in place; empty when it is over."""
        with contextlib.suppress(OSError):
            _write_in_place(self.folder / "trouble.txt", line)

    def said(self) -> str:
        """That line."""
        try:
            return (self.folder / "trouble.txt").read_bytes()[:_LINE].decode(errors="replace").strip("\0 \n")
        except OSError:
            return ""

    def staging(self, folder: Path) -> Path:
        """Where files of a job wait until they are complete."""
        return self.folder / "incoming" / folder.name


def _locked(descriptor: int, folder: Path) -> bool:
    """Take a lock at once; False if another process has it.

    Raises:
        UserError: this file system knows no locks, so nothing could tell whether a keeper is at work.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise UserError(
            f"{folder} is on a file system without locks ({error.strerror}), and hydra/launcher=ssh needs them to "
            "have one keeper. Choose a folder on another disk: paths.multirun=FOLDER, or hydra.sweep.dir=FOLDER."
        ) from None
    return True


def _write_in_place(path: Path, line: str) -> None:
    """Over what is there, which takes no room on a file system that does not copy on writing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, line.encode()[: _LINE - 1].ljust(_LINE - 1) + b"\n", 0)
    finally:
        os.close(descriptor)


def _write_private(path: Path, content: object) -> None:
    write_json(path, content)
    path.chmod(0o600)


def _in_order(jobs: Sequence[Submission]) -> list[Submission]:
    """Needs before those that need them; otherwise as given."""
    left = {job.folder: job for job in jobs}
    done: list[Submission] = []
    while left:
        free = next((job for job in left.values() if not any(need in left for need in job.needs)), None)
        assert free is not None, "jobs need each other in a circle"
        done.append(left.pop(free.folder))
    return done


def _plain(job: Submission) -> dict[str, JSON]:
    needs = [str(need) for need in job.needs]
    return {"folder": str(job.folder), "needs": needs, "always": job.always, "resources": dict(job.resources),
            "handle": job.handle}  # fmt: skip


def _submission(entry: Fields) -> Submission:
    folder = Path(entry.text("folder"))
    task = read_object(folder / JOB, default={}).get("task", "")
    return Submission(
        folder=folder,
        needs=tuple(Path(need) for need in entry.texts("needs")),
        always=entry.flag("always"),
        resources={**entry.object("resources").content, "task": task},
        handle=entry.text("handle", ""),
    )
