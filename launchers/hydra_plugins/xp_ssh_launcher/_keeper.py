"""The keeper: a process of its own that drives an experiment's nodes until every job has ended.

It is started by the controller and outlives it. Killed, it leaves jobs at work and papers (`_desk`) from which the next
one goes on: a lease is written down before its job is started, so no job is ever started twice.
"""

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra_plugins.xp_ssh_launcher import _job_steps
from hydra_plugins.xp_ssh_launcher._agent_files import NO_ROOM
from hydra_plugins.xp_ssh_launcher._door import Door
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._keeper_store import Desk
from hydra_plugins.xp_ssh_launcher._lease_queue import End, Ledger, lost_hosts
from hydra_plugins.xp_ssh_launcher._node import Node, Standing
from hydra_plugins.xp_ssh_launcher._ssh_errors import HereFull
from xp.errors import UserError
from xp.runs.execution.execute import mark_failed, mark_interrupted
from xp.runs.executors.protocol import JobState, Submission
from xp.runs.jobs.secrets import scrub
from xp.runs.records.json_io import read_json
from xp.runs.records.record import now

ROUND_S = 0.2
FULL_S = 2.0
"""Between rounds while this machine's disk is full."""
HERE = "here"
"""Name of this machine among the hosts."""


class Keeper:
    """All that the nodes' threads share. `lock` guards the ledger; a folder's lock guards what is written into it."""

    def __init__(self, desk: Desk, secrets: Mapping[str, Any]):
        self.desk = desk
        self.secrets = {name: dict(secrets.get(name, {})) for name in ("settings", "env", "jobs")}
        self.settings, self.missing = desk.settings(self.secrets["settings"])
        jobs = desk.queue()
        self.cwd = Path.cwd()
        self.lock = threading.RLock()
        self.wake = threading.Event()
        self._dirty = True
        self._here_full = False
        self._linger_until = 0.0
        self._grace: dict[Path, float] = {}
        self._kept_back: dict[Path, list[str]] = {}
        self._folder_locks: dict[Path, threading.Lock] = {}
        self.ledger = Ledger(retries=self.settings.retries, claimed=frozenset(self.settings.here))
        self.ledger.add(jobs)
        self.ledger.restore(desk.state().get("jobs", {}))
        hosts = (*self.settings.hosts, Host(host="localhost", name=HERE, local=True, slots=1))
        self.nodes = [Node(host, self) for host in hosts]
        self._door = Door(self.take_secrets)

    # -- what nodes ask

    def wanted(self, node: Node) -> bool:
        """Whether a job waits for such a node."""
        with self.lock:
            return not self.missing and self.ledger.wanted(node.offer)

    def take(self, node: Node, most: int) -> tuple[Path, int] | None:
        """Lease a job to a node that takes `most` slots now; none while a secret is missing that all may need."""
        with self.lock:
            if self.missing or self._here_full:
                return None
            offer = node.offer
            taken = self.ledger.take(replace(offer, free=min(offer.free, most)))
            if taken is None:
                return None
            if not self._save():  # what is not written down is not used
                self.ledger.untake(taken[0].folder, taken[1])
                return None
        return taken[0].folder, taken[1]

    def ledger_end(self, folder: Path, attempt: int, end: End, why: str = "") -> JobState | None:
        """Note how an attempt ended; None if it is not on lease any more."""
        with self.lock:
            state = self.ledger.end(folder, attempt, end, why)
            self._save()
        return state

    def answered(self, folder: Path, attempt: int, answer: Mapping[str, Any]) -> None:
        """Note a node's answer to `start`."""
        with self.lock:
            self.ledger.answered(folder, attempt, answer)
            self._save()

    def lose_own(self, folder: Path, attempt: int) -> None:
        """An attempt could not be brought on its way by this machine: it is ended where it may be, and waits again."""
        with self.lock:
            lease = self.ledger.leases.get(folder)
            if lease is not None and lease.attempt == attempt:
                self.ledger.lose(folder)

    def leases(self, host: str) -> dict[Path, int]:
        """{folder: attempt} at a host."""
        with self.lock:
            return self.ledger.of(host)

    def slots_of(self, folder: Path, node: Node) -> int:
        """Slots that a job takes at a node."""
        gpus = any(name.startswith("gpu-") for name in node.facts.get("slots", []))
        asked = int(self.ledger.jobs[folder].resources.get("gpus") or 1)
        return max(1, asked) if gpus else 1

    def fences(self, host: str) -> dict[Path, int]:
        """{folder: attempt} to be ended at a host."""
        with self.lock:
            return dict(self.ledger.fences.get(host, {}))

    def fenced(self, host: str, folder: Path, attempt: int) -> None:
        """It was ended."""
        with self.lock:
            self.ledger.fenced(host, folder, attempt)
            self._save()

    def hold(self, folder: Path, keys: Collection[str]) -> None:
        """A job's own secrets are missing: it waits until they are given."""
        with self.lock:
            if folder not in self.ledger.leases:
                return
            self.ledger.held.add(folder)
            self.ledger.lose(folder)
            self._kept_back[folder] = list(keys)
            self._save()

    def take_secrets(self, secrets: Mapping[str, Any]) -> None:
        """Secrets that a later command brought: what waited for them may start."""
        with self.lock:
            for name, known in self.secrets.items():
                known.update(secrets.get(name, {}))
            self.settings, self.missing = self.desk.settings(self.secrets["settings"])
            self.ledger.held.clear()
            self._kept_back.clear()
            self._save()
        self.wake.set()

    @property
    def trouble(self) -> list[str]:
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
            mine = {folder: attempt for folder, attempt in self.ledger.of(host).items() if folder in self._grace}
            return [(folder, attempt, self._grace.pop(folder)) for folder, attempt in mine.items()]

    def forgive(self, host: str) -> None:
        """A node has room again."""
        with self.lock:
            self.ledger.forgive(host)

    def key(self, folder: Path, attempt: int) -> str:
        """The name of an attempt on its node."""
        return f"{self.digest(f'{self.desk.identity()} {folder}')}-{attempt}"

    @staticmethod
    def digest(text: str) -> str:
        """Sixteen hex digits."""
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def codes(self) -> list[Path]:
        """Snapshots that jobs which have not ended run from."""
        with self.lock:
            open_jobs = [folder for folder, state in self.ledger.queue.states.items() if not state.ended]
        return sorted({_job_steps.code_of(folder) for folder in open_jobs})

    @contextmanager
    def writing(self, folder: Path, attempt: int) -> Iterator[bool]:
        """Hold a run's folder here; gives whether the attempt is still on lease, so that it may write there."""
        with self.lock:
            guard = self._folder_locks.setdefault(folder, threading.Lock())
        with guard:
            with self.lock:
                lease = self.ledger.leases.get(folder)
            yield lease is not None and lease.attempt == attempt

    launch, sync, collect = _job_steps.launch, _job_steps.sync, _job_steps.collect

    # -- words

    def note(self, line: str) -> None:
        """A line in keeper.log, and a new state for those who look."""
        _print(f"{now()} {self.clean(line)}")
        with self.lock:
            self._dirty = True

    def clean(self, text: str) -> str:
        """A text without the secrets known here."""
        jobs = [value for each in self.secrets["jobs"].values() for value in each.values()]
        return scrub(text, [*self.secrets["settings"].values(), *self.secrets["env"].values(), *jobs])

    @staticmethod
    def trace() -> None:
        """The traceback of what is being handled, in keeper.log."""
        _print(traceback.format_exc())

    def here_full(self, error: Exception) -> None:
        """This machine's own disk is full: said in the room kept for it; all is tried again until there is some."""
        path = getattr(error, "filename", None)
        what = str(error) if isinstance(error, HereFull) else str(HereFull(path or self.desk.experiment))
        line = f"{what}: nothing can be brought back or started. Make room here; it goes on by itself"
        with self.lock:
            self._dirty = True
            if not self._here_full:
                self._here_full = True
                self.desk.say(line)
                _print(f"{now()} {line}")

    def _save(self) -> bool:
        """Write the state down at once; False if there is no room for it (it is written later)."""
        hosts = {node.name: {"standing": str(node.standing), "line": node.line, "local": node.host.local}
                 for node in self.nodes}  # fmt: skip
        try:
            self.desk.write_state(self.ledger.to_json(), hosts, ready=self._met_all(), trouble=self.trouble,
                                  missing=self.missing, door=self._door.place)  # fmt: skip
        except OSError as error:
            self.here_full(error)
            return False
        self._dirty = False
        if self._here_full:
            self._here_full = False
            self.desk.say("")
            self.note("there is room on this machine's disk again")
        return True

    def _met_all(self) -> bool:
        early = [Standing.CONNECTING] if self.settings.prepares else [Standing.CONNECTING, Standing.SETTING_UP]
        return all(node.standing not in early for node in self.nodes)

    # -- the loop

    def run(self) -> None:
        """Until every job has ended and nobody has asked for more."""
        self.desk.reserve()
        for node in self.nodes:
            node.start()
        try:
            while True:
                try:
                    if self._over():
                        break
                    self._round()
                except OSError as error:  # whatever cannot be written now is written in a later round
                    self.here_full(error) if error.errno in NO_ROOM else self.trace()
                self.wake.wait(FULL_S if self._here_full else ROUND_S)
                self.wake.clear()
        finally:
            for node in self.nodes:
                node.close()
            self._door.close()
            with self.lock:
                self._save()

    def _round(self) -> None:
        self._requests()
        self._lose()
        self._give_up()
        with self.lock:
            if self._dirty:
                self._save()

    def _over(self) -> bool:
        """Whether to end; decided while no controller can hand anything over, and then final."""
        with self.lock:
            if not self.ledger.queue.finished:
                self._linger_until = time.monotonic() + self.settings.lost_after_min * 60
                return False
            if self.ledger.fences and time.monotonic() < self._linger_until:
                return False  # a node that was given up may come back: what runs there is to be ended
        over = False
        with contextlib.suppress(UserError), self.desk.handing_over():  # a controller that hangs: later
            self._requests()
            with self.lock:
                over = self.ledger.queue.finished
                if over:
                    over = self._save()
                    if over:
                        self.desk.leave()
        return over

    def _requests(self) -> None:
        for what in self.desk.requests():
            with self.lock:
                if what["do"] == "submit":
                    self.ledger.add(what["jobs"])
                else:
                    self._cancel([Path(folder) for folder in what["folders"]], what["grace_s"])
                self._save()

    def _cancel(self, folders: list[Path], grace_s: float) -> None:
        for folder, _ in self.ledger.stop(folders):
            self._grace[folder] = grace_s
        self.note(f"asked to end {len(folders)} jobs")

    def _lose(self) -> None:
        """Take jobs from nodes that were silent for too long or cannot be used, and give up those nobody can reach."""
        far = [node for node in self.nodes if not node.host.local]
        silent = {node.name: time.monotonic() - node.heard for node in far}
        limit_s = self.settings.lost_after_min * 60
        using = {node.name: silent[node.name] for node in far if node.standing is not Standing.REFUSED}
        why = dict.fromkeys(lost_hosts(using, limit_s), f"silent for {self.settings.lost_after_min:g} minutes")
        beyond = {node.name for node in far if node.standing is Standing.REFUSED and silent[node.name] >= limit_s}
        known = {node.name for node in self.nodes}
        with self.lock:
            left = {lease.host for lease in self.ledger.leases.values()} | self.ledger.fences.keys()
        why |= {host: "not among the hosts any more" for host in left - known}
        beyond |= why.keys()
        why |= {node.name: node.line for node in self.nodes if node.standing is Standing.REFUSED}
        for name in left & why.keys():
            for folder, attempt in self.leases(name).items():
                self._lose_one(name, folder, attempt, why[name])
        with self.lock:
            for name in beyond:
                self.ledger.give_up(name)

    def _lose_one(self, name: str, folder: Path, attempt: int, why: str) -> None:
        with self.writing(folder, attempt) as mine:
            if not mine:
                return
            with self.lock:
                mark_interrupted(folder, f"its host was given up: {name}: {why}")
                self.ledger.lose(folder)
                self._save()
            self.note(f"{folder.name}: {name} is lost ({why}); it goes on elsewhere from what has come back")

    def _give_up(self) -> None:
        """End what can never run: no node is left, or none that is left has what a job asks for."""
        usable = [node for node in self.nodes if node.standing is not Standing.REFUSED]
        if not self._met_all():
            return
        with self.lock:
            if not any(not node.host.local for node in usable):
                self.ledger.queue.stop()
                return
            known = [node.offer for node in usable if node.facts]
            if len(known) == len(usable):
                for folder in self.ledger.hopeless(known):
                    self._refuse(self.ledger.jobs[folder])

    def _refuse(self, job: Submission) -> None:
        why = "; ".join(self.ledger.unfit.get(job.folder, {}).values())
        if not why:
            wanted = {key: value for key, value in job.resources.items() if key in ("gpus", "tags") and value}
            offers = "; ".join(node.offered for node in self.nodes if not node.host.local)
            why = f"No host has what this job asks for ({wanted}). There are: {offers}"
        mark_failed(job.folder, why)
        self.ledger.queue.set(job.folder, JobState.FAILED)
        self._save()

    def secret_env(self) -> dict[str, str]:
        """Variables of jobs that are."""
        return dict(self.secrets["env"])

    def secrets_for(self, folder: Path) -> dict[str, str]:
        """{dotted key: value} left out of a job's files."""
        return dict(self.secrets["jobs"].get(str(folder), {}))


def _print(text: str) -> None:
    """A line in keeper.log; left out where it cannot be written."""
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode(errors="replace"))


def main(experiment: str) -> None:
    """Become the keeper of an experiment; secrets come by standard input."""
    secrets = json.loads(sys.stdin.read() or "{}")
    desk = Desk(Path(experiment))
    keys = desk.take_keys()
    if keys is None:
        return
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    _print(f"{now()} keeper {os.getpid()} of {read_json(desk.folder / 'queue.json')['cwd']}")
    Keeper(desk, secrets).run()


if __name__ == "__main__":
    main(sys.argv[1])
