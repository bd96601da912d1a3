"""Who works on what: the state that a keeper and its nodes' threads share, each change of which is written down first.

`Assignments.lock` guards the queue of leases; a folder's lock guards what is written into it.
"""

import contextlib
import hashlib
import os
import threading
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from hydra_plugins.xp_ssh_launcher._door import Door, Secrets
from hydra_plugins.xp_ssh_launcher._keeper_store import KeeperStore, SeenHost
from hydra_plugins.xp_ssh_launcher._lease_queue import AttemptOutcome, LeaseQueue, NodeCapacity, StartAnswer, gpus_of
from hydra_plugins.xp_ssh_launcher._ssh_errors import HereFull
from xp.runs.executors.protocol import JobState
from xp.runs.jobs import snapshot
from xp.runs.jobs.frozen import open_job
from xp.runs.jobs.secrets import scrub
from xp.runs.records.record import now


class NodeStatus(StrEnum):
    """How a node stands."""

    CONNECTING = "connecting"
    SETTING_UP = "setting up"
    READY = "ready"
    SILENT = "silent"
    FULL = "full"
    TAKEN = "taken"
    """Others use its GPUs."""
    REFUSED = "refused"
    """Something must be changed by a person; the other nodes go on."""


@dataclass
class HostState:
    """How a host stands, for those who look."""

    local: bool
    status: NodeStatus = NodeStatus.CONNECTING
    line: str = ""
    """What is wrong with it, for people."""


def code_of(folder: Path) -> Path:
    """The snapshot that a job runs from; taken now if it was frozen without one."""
    key = open_job(folder).snapshot or snapshot.take(folder.parent)
    return folder.parent / ".code" / key


class Assignments:
    """The jobs of one experiment, which host has which, and what is kept from files."""

    def __init__(self, store: KeeperStore, secrets: Secrets):
        self.store = store
        self.secrets = Secrets(settings={}, env={}, jobs={})
        self._add_secrets(secrets)
        self.settings, self.missing = store.settings(self.secrets["settings"])
        jobs = store.queue()
        self.cwd = Path.cwd()
        self.lock = threading.RLock()
        self.wake = threading.Event()
        self.hosts: dict[str, HostState] = {}
        self.dirty = True
        """Whether something changed that is not written down yet."""
        self.is_full = False
        """Whether this machine's own disk is full."""
        self._left = False
        """Whether this is the keeper no longer: what is written down is the next one's then."""
        self._grace: dict[Path, float] = {}
        self._kept_back: dict[Path, list[str]] = {}
        self._folder_locks: dict[Path, threading.Lock] = {}
        self.lease_queue = LeaseQueue(retries=self.settings.retries, claimed=frozenset(self.settings.here))
        self.lease_queue.add(jobs)
        self.lease_queue.restore(store.state().get("jobs", {}))
        self._door = Door(self.take_secrets)

    def close(self) -> None:
        """Let no secrets in any more, and write everything down."""
        self._door.close()
        with self.lock:
            self.save()

    def leave(self) -> bool:
        """Write everything down and be the keeper no longer; False if there was no room: then it goes on."""
        with self.lock:
            if not self.save():
                return False
            self._left = True
            self.store.leave()
            return True

    def wanted(self, capacity: NodeCapacity) -> bool:
        """Whether a job waits for such a node."""
        with self.lock:
            return not self.missing and self.lease_queue.wanted(capacity)

    def take(self, capacity: NodeCapacity, most: int) -> tuple[Path, int] | None:
        """Lease a job to a node that takes `most` slots now; none while a secret is missing that all may need."""
        with self.lock:
            if self.missing or self.is_full:
                return None
            taken = self.lease_queue.take(replace(capacity, free=min(capacity.free, most)))
            if taken is None:
                return None
            if not self.save():  # what is not written down is not used
                self.lease_queue.untake(taken[0].folder, taken[1])
                return None
        return taken[0].folder, taken[1]

    def attempt_ended(self, folder: Path, attempt: int, outcome: AttemptOutcome, why: str = "") -> JobState | None:
        """Note how an attempt ended; None if it is not on lease any more."""
        with self.lock:
            state = self.lease_queue.end(folder, attempt, outcome, why)
            self.save()
        return state

    def answered(self, folder: Path, attempt: int, answer: StartAnswer) -> None:
        """Note a node's answer to `start`."""
        with self.lock:
            self.lease_queue.answered(folder, attempt, answer)
            self.save()

    def lose_own(self, folder: Path, attempt: int) -> None:
        """An attempt could not be brought on its way by this machine: it is ended where it may be, and waits again."""
        with self.lock:
            lease = self.lease_queue.leases.get(folder)
            if lease is not None and lease.attempt == attempt:
                self.lease_queue.lose(folder)

    def leases(self, host: str) -> dict[Path, int]:
        """{folder: attempt} at a host."""
        with self.lock:
            return self.lease_queue.of(host)

    def slots_of(self, folder: Path, *, gpus: bool) -> int:
        """Slots that a job takes at a node, which has GPUs or not."""
        asked = gpus_of(self.lease_queue.jobs[folder])
        return max(1, asked or 1) if gpus else 1

    def fences(self, host: str) -> dict[Path, int]:
        """{folder: attempt} to be ended at a host."""
        with self.lock:
            return dict(self.lease_queue.fences.get(host, {}))

    def fenced(self, host: str, folder: Path, attempt: int) -> None:
        """It was ended."""
        with self.lock:
            self.lease_queue.fenced(host, folder, attempt)
            self.save()

    def hold(self, folder: Path, keys: Collection[str]) -> None:
        """A job's own secrets are missing: it waits until they are given."""
        with self.lock:
            if folder not in self.lease_queue.leases:
                return
            self.lease_queue.held.add(folder)
            self.lease_queue.lose(folder)
            self._kept_back[folder] = list(keys)
            self.save()

    def take_secrets(self, secrets: Secrets) -> None:
        """Secrets that a later command brought: what waited for them may start."""
        with self.lock:
            self._add_secrets(secrets)
            self.settings, self.missing = self.store.settings(self.secrets["settings"])
            self.lease_queue.held.clear()
            self._kept_back.clear()
            self.save()
        self.wake.set()

    def _add_secrets(self, secrets: Secrets) -> None:
        self.secrets["settings"].update(secrets.get("settings", {}))
        self.secrets["env"].update(secrets.get("env", {}))
        self.secrets["jobs"].update(secrets.get("jobs", {}))

    @property
    def errors(self) -> list[str]:
        """What keeps all hosts from work, a line each."""
        told = "secrets are kept on no disk. Give them again, with the same command, or export them and name them in"
        lines = []
        if self.missing:
            names = ", ".join(f"hydra.launcher.{key}" for key in self.missing)
            lines.append(f"no job is started without {names}: {told} hydra.launcher.pass_env=[NAME]")
        if self._kept_back:
            folder, keys = next(iter(self._kept_back.items()))
            lines.append(f"{len(self._kept_back)} jobs wait for {', '.join(keys)} ({folder.name} ...): {told} no file")
        return lines

    def leaving(self, host: str) -> list[tuple[Path, int, float]]:
        """(folder, attempt, grace time) of jobs to be asked to leave, each once."""
        with self.lock:
            mine = {folder: attempt for folder, attempt in self.lease_queue.of(host).items() if folder in self._grace}
            return [(folder, attempt, self._grace.pop(folder)) for folder, attempt in mine.items()]

    def clear_avoid(self, host: str) -> None:
        """A node has room again."""
        with self.lock:
            self.lease_queue.clear_avoid(host)

    def key(self, folder: Path, attempt: int) -> str:
        """The name of an attempt on its node."""
        return f"{self.digest(f'{self.store.identity()} {folder}')}-{attempt}"

    @staticmethod
    def digest(text: str) -> str:
        """Sixteen hex digits."""
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def codes(self) -> list[Path]:
        """Snapshots that jobs which have not ended run from."""
        with self.lock:
            open_jobs = [folder for folder, state in self.lease_queue.queue.states.items() if not state.ended]
        return sorted({code_of(folder) for folder in open_jobs})

    @contextmanager
    def writing(self, folder: Path, attempt: int) -> Iterator[bool]:
        """Hold a run's folder here; gives whether the attempt is still on lease, so that it may write there."""
        with self.lock:
            guard = self._folder_locks.setdefault(folder, threading.Lock())
        with guard:
            with self.lock:
                lease = self.lease_queue.leases.get(folder)
            yield lease is not None and lease.attempt == attempt

    def cancel(self, folders: list[Path], grace_s: float) -> None:
        """Jobs that wait will not start; those at work are asked to leave by their nodes."""
        with self.lock:
            for folder, _ in self.lease_queue.stop(folders):
                self._grace[folder] = grace_s
        self.note(f"asked to end {len(folders)} jobs")

    def note(self, line: str) -> None:
        """A line in keeper.log, and a new state for those who look."""
        print_line(f"{now()} {self.clean(line)}")
        with self.lock:
            self.dirty = True

    def clean(self, text: str) -> str:
        """A text without the secrets known here."""
        jobs = [value for each in self.secrets["jobs"].values() for value in each.values()]
        return scrub(text, [*self.secrets["settings"].values(), *self.secrets["env"].values(), *jobs])

    @staticmethod
    def trace() -> None:
        """The traceback of what is being handled, in keeper.log."""
        print_line(traceback.format_exc())

    def here_full(self, error: Exception) -> None:
        """This machine's own disk is full: said in the room kept for it; all is tried again until there is some."""
        path = getattr(error, "filename", None)
        what = str(error) if isinstance(error, HereFull) else str(HereFull(path or self.store.experiment))
        line = f"{what}: nothing can be brought back or started. Make room here; it goes on by itself"
        with self.lock:
            self.dirty = True
            if not self.is_full and not self._left:
                self.is_full = True
                self.store.say(line)
                print_line(f"{now()} {line}")

    def save(self) -> bool:
        """Write the state down at once; False if there is no room for it (it is written later)."""
        if self._left:
            return True
        hosts = {name: SeenHost(standing=str(each.status), line=each.line, local=each.local)
                 for name, each in self.hosts.items()}  # fmt: skip
        try:
            self.store.write_state(self.lease_queue.to_json(), hosts, ready=self.met_all(), trouble=self.errors,
                                  missing=self.missing, door=self._door.place)  # fmt: skip
        except OSError as error:
            self.here_full(error)
            return False
        self.dirty = False
        if self.is_full:
            self.is_full = False
            self.store.say("")
            self.note("there is room on this machine's disk again")
        return True

    def met_all(self) -> bool:
        """Whether every host has answered, or been refused."""
        early = [NodeStatus.CONNECTING] if self.settings.prepares else [NodeStatus.CONNECTING, NodeStatus.SETTING_UP]
        return all(each.status not in early for each in self.hosts.values())

    def secret_env(self) -> dict[str, str]:
        """Variables of jobs that are."""
        return dict(self.secrets["env"])

    def secrets_for(self, folder: Path) -> dict[str, str]:
        """{dotted key: value} left out of a job's files."""
        return dict(self.secrets["jobs"].get(str(folder), {}))


def print_line(text: str) -> None:
    """A line in keeper.log; left out where it cannot be written."""
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode(errors="replace"))
