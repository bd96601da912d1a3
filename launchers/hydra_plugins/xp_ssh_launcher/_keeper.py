"""The keeper: a process of its own that drives an experiment's nodes until every job has ended.

It is started by the controller and outlives it. Killed, it leaves jobs at work and files (`_keeper_store`) from which
the next one goes on: a lease is written down before its job is started, so no job is ever started twice.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from hydra_plugins.xp_ssh_launcher._agent_files import NO_ROOM
from hydra_plugins.xp_ssh_launcher._assignments import Assignments, NodeStatus, print_line
from hydra_plugins.xp_ssh_launcher._door import Secrets
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._job_steps import JobSteps
from hydra_plugins.xp_ssh_launcher._keeper_store import KeeperStore, SubmitRequest
from hydra_plugins.xp_ssh_launcher._lease_queue import lost_hosts
from hydra_plugins.xp_ssh_launcher._node import Node
from xp.errors import UserError
from xp.runs.execution.execute import mark_failed, mark_interrupted
from xp.runs.executors.protocol import JobState, Submission
from xp.runs.records.record import now

ROUND_S = 0.2
FULL_S = 2.0
"""Between rounds while this machine's disk is full."""
MEETING_S = 10.0
"""How long a keeper whose jobs have all ended stays for hosts that have not answered yet."""
HERE = "here"
"""Name of this machine among the hosts."""


class Keeper:
    """The loop beside the nodes' threads: requests of controllers, hosts that are lost, jobs that can never run."""

    def __init__(self, store: KeeperStore, secrets: Secrets):
        self.assignments = Assignments(store, secrets)
        steps = JobSteps(self.assignments)
        hosts = (*self.assignments.settings.hosts, Host(host="localhost", name=HERE, local=True, slots=1))
        self.nodes = [Node(host, self.assignments, steps) for host in hosts]
        self._linger_until = 0.0
        self._meeting_until = time.monotonic() + MEETING_S

    def run(self) -> None:
        """Until every job has ended and nobody has asked for more."""
        self.assignments.store.reserve()
        for node in self.nodes:
            node.start()
        try:
            while True:
                try:
                    if self._over():
                        break
                    self._round()
                except OSError as error:  # whatever cannot be written now is written in a later round
                    self.assignments.here_full(error) if error.errno in NO_ROOM else self.assignments.trace()
                self.assignments.wake.wait(FULL_S if self.assignments.is_full else ROUND_S)
                self.assignments.wake.clear()
        finally:
            for node in self.nodes:
                node.close()
            self.assignments.close()

    def _round(self) -> None:
        self._requests()
        self._lose()
        self._give_up()
        with self.assignments.lock:
            if self.assignments.dirty:
                self.assignments.save()

    def _over(self) -> bool:
        """Whether to end; decided while no controller can hand anything over, and then final."""
        with self.assignments.lock:
            if not self.assignments.lease_queue.queue.finished:
                self._linger_until = time.monotonic() + self.assignments.settings.lost_after_min * 60
                return False
            if self.assignments.lease_queue.fences and time.monotonic() < self._linger_until:
                return False  # a node that was given up may come back: what runs there is to be ended
            if not self.assignments.met_all() and time.monotonic() < self._meeting_until:
                return False  # what is wrong with a host is said to the controller that has just named it
        over = False
        with contextlib.suppress(UserError), self.assignments.store.submission_lock():  # a controller that hangs: later
            self._requests()
            with self.assignments.lock:
                over = self.assignments.lease_queue.queue.finished and self.assignments.leave()
        return over

    def _requests(self) -> None:
        for what in self.assignments.store.requests():
            with self.assignments.lock:
                if isinstance(what, SubmitRequest):
                    self.assignments.lease_queue.add(what.jobs)
                else:
                    self.assignments.cancel(what.folders, what.grace_s)
                self.assignments.save()

    def _lose(self) -> None:
        """Take jobs from nodes that were silent for too long or cannot be used, and give up those nobody can reach."""
        far = [node for node in self.nodes if not node.host.local]
        silent = {node.name: time.monotonic() - node.heard for node in far}
        minutes = self.assignments.settings.lost_after_min
        limit_s = minutes * 60
        using = {node.name: silent[node.name] for node in far if node.state.status is not NodeStatus.REFUSED}
        why = dict.fromkeys(lost_hosts(using, limit_s), f"silent for {minutes:g} minutes")
        refused = {node.name: node.state.line for node in self.nodes if node.state.status is NodeStatus.REFUSED}
        beyond = {node.name for node in far if node.name in refused and silent[node.name] >= limit_s}
        known = {node.name for node in self.nodes}
        with self.assignments.lock:
            queue = self.assignments.lease_queue
            left = {lease.host for lease in queue.leases.values()} | queue.fences.keys()
        why |= {host: "not among the hosts any more" for host in left - known}
        beyond |= why.keys()
        why |= refused
        for name in left & why.keys():
            for folder, attempt in self.assignments.leases(name).items():
                self._lose_one(name, folder, attempt, why[name])
        with self.assignments.lock:
            for name in beyond:
                self.assignments.lease_queue.give_up(name)

    def _lose_one(self, name: str, folder: Path, attempt: int, why: str) -> None:
        with self.assignments.writing(folder, attempt) as mine:
            if not mine:
                return
            with self.assignments.lock:
                mark_interrupted(folder, f"its host was given up: {name}: {why}")
                self.assignments.lease_queue.lose(folder)
                self.assignments.save()
            self.assignments.note(
                f"{folder.name}: {name} is lost ({why}); it goes on elsewhere from what has come back"
            )

    def _give_up(self) -> None:
        """End what can never run: no node is left, or none that is left has what a job asks for."""
        usable = [node for node in self.nodes if node.state.status is not NodeStatus.REFUSED]
        if not self.assignments.met_all():
            return
        with self.assignments.lock:
            if not any(not node.host.local for node in usable):
                self.assignments.lease_queue.queue.stop()
                return
            known = [node.capacity for node in usable if node.facts["slots"]]
            if len(known) == len(usable):
                for folder in self.assignments.lease_queue.unschedulable(known):
                    self._refuse(self.assignments.lease_queue.jobs[folder])

    def _refuse(self, job: Submission) -> None:
        why = "; ".join(self.assignments.lease_queue.unfit.get(job.folder, {}).values())
        if not why:
            wanted = {key: value for key, value in job.resources.items() if key in ("gpus", "tags") and value}
            capacities = "; ".join(node.capacity_text for node in self.nodes if not node.host.local)
            why = f"No host has what this job asks for ({wanted}). There are: {capacities}"
        mark_failed(job.folder, why)
        self.assignments.lease_queue.queue.set(job.folder, JobState.FAILED)
        self.assignments.save()


def main(experiment: str) -> None:
    """Become the keeper of an experiment; secrets come by standard input."""
    secrets = json.loads(sys.stdin.read() or "{}")
    store = KeeperStore(Path(experiment))
    if store.acquire_keeper_lock() is None:
        return
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    print_line(f"{now()} keeper {os.getpid()} of {store.working_folder()}")
    Keeper(store, secrets).run()


if __name__ == "__main__":
    main(sys.argv[1])
