"""submitit's jobs on ssh nodes: a scheduler in the submitting process that idle nodes take jobs from.

The same agent, leases and file carrying as under xp's own sweeper, without a keeper: submitit's own contract is that
the submitting process waits. A job's folder is at the same path on its node; the jobs themselves are detached there.
"""

import contextlib
import hashlib
import shlex
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from hydra_plugins.xp_ssh_launcher._agent_client import AgentClient, MachineFacts
from hydra_plugins.xp_ssh_launcher._files import FileSync
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._lease_queue import AttemptOutcome, LeaseQueue, NodeCapacity, lost_hosts
from hydra_plugins.xp_ssh_launcher._settings import Settings
from hydra_plugins.xp_ssh_launcher._ssh_errors import Refused, Unreachable
from hydra_plugins.xp_ssh_launcher._transport import Link
from xp.runs.executors.protocol import JobState, Submission

STATES = {JobState.WAITING: "PENDING", JobState.RUNNING: "RUNNING", JobState.DONE: "COMPLETED",
          JobState.INTERRUPTED: "CANCELLED"}  # fmt: skip
_LOOK_S = 0.2
_RETRY_S = 2.0


class JobOrder(TypedDict):
    """What a node is told to start."""

    folder: str
    experiment: str
    cwd: str
    argv: list[str]
    env: dict[str, str]
    secret_env: dict[str, str]
    """Variables that stand in no file."""
    stdin: str


@dataclass
class SubmititScheduler:
    """Jobs and nodes of one executor. `lock` guards the queue of leases."""

    settings: Settings
    lease_queue: LeaseQueue = field(default_factory=LeaseQueue)
    lock: threading.RLock = field(default_factory=threading.RLock)
    orders: dict[Path, JobOrder] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    """{host: what is wrong with it}."""
    heard: dict[str, float] = field(default_factory=dict)

    def submit(self, folder: Path, order: JobOrder) -> None:
        """Put up a job; its handle is its folder."""
        with self.lock:
            first = not self.orders
            self.orders[folder] = order
            self.lease_queue.retries = self.settings.retries
            self.lease_queue.add([Submission(folder=folder)])
        if first:
            for host in self.settings.hosts:
                self.heard[host.name] = time.monotonic()
                threading.Thread(target=self._drive, args=(host,), name=host.name, daemon=True).start()

    def state(self, folder: Path) -> str:
        """A job's state in submitit's words."""
        with self.lock:
            state = self.lease_queue.queue.states.get(folder)
            if state is JobState.WAITING and len(self.lines) == len(self.settings.hosts):
                return "FAILED"
        return STATES.get(state, "FAILED") if state is not None else "UNKNOWN"

    def cancel(self, folder: Path) -> None:
        """A job that waits will not start; one at work is asked to leave by its node's thread."""
        with self.lock:
            self.lease_queue.stop([folder])

    def _drive(self, host: Host) -> None:
        link = Link(host, python=host.python or self.settings.python, ssh_config=self.settings.ssh_config)
        agent = AgentClient(link)
        while True:
            try:
                link.connect()
                slots = self._greet(host, agent)
                while True:
                    self._round(host, link, agent, slots)
                    time.sleep(_LOOK_S)
            except Unreachable:
                self._lose()
                time.sleep(_RETRY_S)
            except Refused as error:
                self.lines[host.name] = str(error)
                return

    def _greet(self, host: Host, agent: AgentClient) -> MachineFacts:
        gpus = None if host.gpus is None else list(host.gpus)
        facts = agent.greet(
            workdir=host.workdir or self.settings.workdir, folders=[], marks={}, gpus_wanted=gpus, slots=host.slots
        )
        if self.settings.setup:
            key = hashlib.sha256("\0".join(self.settings.setup).encode()).hexdigest()[:16]
            agent.ask("set_up", commands=list(self.settings.setup), cwd="/", key=key, env=dict(self.settings.env),
                      patience_s=7200)  # fmt: skip
        return facts

    def _round(self, host: Host, link: Link, agent: AgentClient, facts: MachineFacts) -> None:
        files = FileSync(link, agent, rsync=facts["rsync"])
        with self.lock:
            fences, mine = dict(self.lease_queue.fences.get(host.name, {})), self.lease_queue.of(host.name)
            leaving = set(self.lease_queue.leaving)
        for folder, attempt in fences.items():
            agent.ask("fence", key=_key(folder, attempt), folder=str(folder), attempt=attempt + 1, discard=True,
                      patience_s=30)  # fmt: skip
            with self.lock:
                self.lease_queue.fenced(host.name, folder, attempt)
        for folder, attempt in mine.items():
            if folder in leaving:
                agent.ask("stop", key=_key(folder, attempt), grace_s=self.settings.grace_s)
            state = agent.ask("poll", keys=[_key(folder, attempt)], known={}, wait_s=0)["jobs"][_key(folder, attempt)]
            if state == "unknown":  # the answer to its start was lost, or the start
                self._launch(host, agent, files, facts, folder, attempt)
            elif state != "running":
                self._collect(files, folder, attempt)
        self.heard[host.name] = time.monotonic()
        taken = self._take(host, facts["slots"])
        if taken is not None:
            self._launch(host, agent, files, facts, *taken)

    def _take(self, host: Host, slots: list[str]) -> tuple[Path, int] | None:
        gpus = slots[0].startswith("gpu-")
        with self.lock:
            free = len(slots) - len(self.lease_queue.of(host.name))
            capacity = NodeCapacity(name=host.name, tags=frozenset(host.tags), slots=len(slots), free=free, gpus=gpus)
            taken = self.lease_queue.take(capacity)
        return None if taken is None else (taken[0].folder, taken[1])

    def _launch(
        self, host: Host, agent: AgentClient, files: FileSync, facts: MachineFacts, folder: Path, attempt: int
    ) -> None:
        files.push(folder, folder)
        order = {**self.orders[folder], "attempt": attempt}
        answer = agent.ask("start", key=_key(folder, attempt), order=order, slots=facts["slots"], number=1, min_free=0)
        with self.lock:
            self.lease_queue.answered(folder, attempt, answer)

    def _collect(self, files: FileSync, folder: Path, attempt: int) -> None:
        """Results first, the state after them: who sees a job done finds its result."""
        staging = folder.parent / f".{folder.name}.incoming"
        for _ in range(5):
            if files.pull(folder, staging):
                break
        end = AttemptOutcome.DONE if any(folder.glob("*_result.pkl")) else AttemptOutcome.DIED
        with self.lock:
            self.lease_queue.end(folder, attempt, end)

    def _lose(self) -> None:
        silent = {name: time.monotonic() - heard for name, heard in self.heard.items() if name not in self.lines}
        with self.lock, contextlib.suppress(KeyError):
            for name in lost_hosts(silent, self.settings.lost_after_min * 60):
                for folder in self.lease_queue.of(name):
                    self.lease_queue.lose(folder)
                self.lease_queue.give_up(name)


def order_of(folder: Path, settings: Settings, command: list[str], env: dict[str, str]) -> JobOrder:
    """What a node is told to start: submitit's own worker, its output going to the files that submitit looks at."""
    line = f"exec {shlex.join(command)} >{shlex.quote(env['XP_OUT'])} 2>{shlex.quote(env['XP_ERR'])}"
    return {"folder": str(folder), "experiment": str(folder.parent), "cwd": str(folder), "argv": ["sh", "-c", line],
            "env": {**settings.env, **env}, "secret_env": {}, "stdin": ""}  # fmt: skip


def _key(folder: Path, attempt: int) -> str:
    return f"{folder.parent.name}-{folder.name}-{attempt}"
