"""submitit's jobs on ssh nodes: a board in the submitting process that idle nodes take jobs from.

The same agent, leases and file carrying as under xp's own sweeper, without a keeper: submitit's own contract is that
the submitting process waits. A job's folder lies at the same path on its node; the jobs themselves are detached there.
"""

import contextlib
import hashlib
import shlex
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra_plugins.xp_ssh_launcher._files import Courier
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._lease_queue import End, Ledger, Offer, lost_hosts
from hydra_plugins.xp_ssh_launcher._settings import Settings
from hydra_plugins.xp_ssh_launcher._ssh_errors import Refused, Unreachable
from hydra_plugins.xp_ssh_launcher._transport import Agent, Link
from xp.runs.executors.protocol import JobState, Submission

STATES = {JobState.WAITING: "PENDING", JobState.RUNNING: "RUNNING", JobState.DONE: "COMPLETED",
          JobState.INTERRUPTED: "CANCELLED"}  # fmt: skip
_LOOK_S = 0.2
_RETRY_S = 2.0


@dataclass
class Board:
    """Jobs and nodes of one executor. `lock` guards the ledger."""

    settings: Settings
    ledger: Ledger = field(default_factory=Ledger)
    lock: threading.RLock = field(default_factory=threading.RLock)
    orders: dict[Path, dict[str, Any]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    """{host: what is wrong with it}."""
    heard: dict[str, float] = field(default_factory=dict)

    def submit(self, folder: Path, order: dict[str, Any]) -> None:
        """Put up a job; its handle is its folder."""
        with self.lock:
            first = not self.orders
            self.orders[folder] = order
            self.ledger.retries = self.settings.retries
            self.ledger.add([Submission(folder=folder)])
        if first:
            for host in self.settings.hosts:
                self.heard[host.name] = time.monotonic()
                threading.Thread(target=self._drive, args=(host,), name=host.name, daemon=True).start()

    def state(self, folder: Path) -> str:
        """A job's state in submitit's words."""
        with self.lock:
            state = self.ledger.queue.states.get(folder)
            if state is JobState.WAITING and len(self.lines) == len(self.settings.hosts):
                return "FAILED"
        return STATES.get(state, "FAILED") if state is not None else "UNKNOWN"

    def cancel(self, folder: Path) -> None:
        """A job that waits will not start; one at work is asked to leave by its node's thread."""
        with self.lock:
            self.ledger.stop([folder])

    def _drive(self, host: Host) -> None:
        link = Link(host, python=host.python or self.settings.python, ssh_config=self.settings.ssh_config)
        agent = Agent(link)
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

    def _greet(self, host: Host, agent: Agent) -> dict[str, Any]:
        gpus = None if host.gpus is None else list(host.gpus)
        facts = agent.greet(
            workdir=host.workdir or self.settings.workdir, folders=[], marks={}, gpus_wanted=gpus, slots=host.slots
        )
        if self.settings.setup:
            key = hashlib.sha256("\0".join(self.settings.setup).encode()).hexdigest()[:16]
            agent.ask("set_up", commands=list(self.settings.setup), cwd="/", key=key, env=dict(self.settings.env),
                      patience_s=7200)  # fmt: skip
        return facts

    def _round(self, host: Host, link: Link, agent: Agent, facts: dict[str, Any]) -> None:
        courier = Courier(link, agent, rsync=facts["rsync"])
        with self.lock:
            fences, mine = dict(self.ledger.fences.get(host.name, {})), self.ledger.of(host.name)
            leaving = set(self.ledger.leaving)
        for folder, attempt in fences.items():
            agent.ask("fence", key=_key(folder, attempt), folder=str(folder), attempt=attempt + 1, discard=True,
                      patience_s=30)  # fmt: skip
            with self.lock:
                self.ledger.fenced(host.name, folder, attempt)
        for folder, attempt in mine.items():
            if folder in leaving:
                agent.ask("stop", key=_key(folder, attempt), grace_s=self.settings.grace_s)
            state = agent.ask("poll", keys=[_key(folder, attempt)], known={}, wait_s=0)["jobs"][_key(folder, attempt)]
            if state == "unknown":  # the answer to its start was lost, or the start
                self._launch(host, agent, courier, facts, folder, attempt)
            elif state != "running":
                self._collect(courier, folder, attempt)
        self.heard[host.name] = time.monotonic()
        taken = self._take(host, facts["slots"])
        if taken is not None:
            self._launch(host, agent, courier, facts, *taken)

    def _take(self, host: Host, slots: list[str]) -> tuple[Path, int] | None:
        gpus = slots[0].startswith("gpu-")
        with self.lock:
            free = len(slots) - len(self.ledger.of(host.name))
            offer = Offer(name=host.name, tags=frozenset(host.tags), slots=len(slots), free=free, gpus=gpus)
            taken = self.ledger.take(offer)
        return None if taken is None else (taken[0].folder, taken[1])

    def _launch(
        self, host: Host, agent: Agent, courier: Courier, facts: dict[str, Any], folder: Path, attempt: int
    ) -> None:
        courier.push(folder, folder)
        order = {**self.orders[folder], "attempt": attempt}
        answer = agent.ask("start", key=_key(folder, attempt), order=order, slots=facts["slots"], number=1, min_free=0)
        with self.lock:
            self.ledger.answered(folder, attempt, answer)

    def _collect(self, courier: Courier, folder: Path, attempt: int) -> None:
        """Results first, the state after them: who sees a job done finds its result."""
        staging = folder.parent / f".{folder.name}.incoming"
        for _ in range(5):
            if courier.pull(folder, staging):
                break
        end = End.DONE if any(folder.glob("*_result.pkl")) else End.DIED
        with self.lock:
            self.ledger.end(folder, attempt, end)

    def _lose(self) -> None:
        silent = {name: time.monotonic() - heard for name, heard in self.heard.items() if name not in self.lines}
        with self.lock, contextlib.suppress(KeyError):
            for name in lost_hosts(silent, self.settings.lost_after_min * 60):
                for folder in self.ledger.of(name):
                    self.ledger.lose(folder)
                self.ledger.give_up(name)


def order_of(folder: Path, settings: Settings, command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """What a node is told to start: submitit's own worker, its output going to the files that submitit looks at."""
    line = f"exec {shlex.join(command)} >{shlex.quote(env['XP_OUT'])} 2>{shlex.quote(env['XP_ERR'])}"
    return {"folder": str(folder), "experiment": str(folder.parent), "cwd": str(folder), "argv": ["sh", "-c", line],
            "env": {**settings.env, **env}, "secret_env": {}, "stdin": ""}  # fmt: skip


def _key(folder: Path, attempt: int) -> str:
    return f"{folder.parent.name}-{folder.name}-{attempt}"
