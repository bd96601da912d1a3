"""Who works on what: the queue and its leases, as bookkeeping without clocks, threads or network.

A job's lease names one host and the number of the attempt. Numbers only grow; whatever an attempt reports that is not
the one on lease is discarded, so a node that was given up and comes back can change nothing. A job is leased only when
every earlier attempt of it is settled: it ended, its host said that it never will start, it was ended there by a fence,
or its host was given up. Nodes take jobs, jobs are not dealt out: `take` gives the first ready job that fits the host
that asks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import NotRequired, TypedDict

from xp.runs.executors.protocol import JobState, Submission
from xp.runs.executors.queue import JobQueue

MOVES = 5
"""How often a job may be displaced by a full disk before it counts as failed."""


class AttemptOutcome(StrEnum):
    """How an attempt ended, as far as the queue is concerned."""

    DONE = "done"
    FAILED = "failed"
    """The job itself said so: an exception."""
    DIED = "died"
    """Its process was killed, or left without a word: tried again, a limited number of times."""
    DISPLACED = "displaced"
    """The node could not go on with it (disk full): tried elsewhere."""
    UNFIT = "unfit"
    """The node cannot be given what it needs (other data is there): tried elsewhere, never there again."""
    LEFT = "left"
    """It was asked to leave and did."""


@dataclass(frozen=True)
class Lease:
    """One attempt of one job at one host."""

    host: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class NodeCapacity:
    """What a host that asks for a job has: its name, tags, all of its slots and those not taken."""

    name: str
    tags: frozenset[str] = frozenset()
    slots: int = 1
    free: int = 1
    gpus: bool = False
    tasks: frozenset[str] | None = None
    """Tasks that it takes; None: all but those that another host claims for itself."""


class StartAnswer(TypedDict):
    """A node's answer to `start`."""

    started: bool
    why: NotRequired[str]
    """Why it was not: `full` (no room on its disk), or anything else (its slots were taken by others)."""
    line: NotRequired[str]
    """The same for people."""


class SavedJob(TypedDict):
    """What a later keeper needs to know of a job."""

    state: str
    host: str | None
    """Who has it on lease."""
    attempt: int
    deaths: int
    fences: Mapping[str, int]
    """{host: attempt that is to be ended there}."""
    unsettled: list[str]
    leaving: bool


@dataclass
class LeaseQueue:
    """The queue, the leases, and what must be ended at hosts that were given up."""

    retries: int = 2
    """How often a job whose process died is tried again."""
    claimed: frozenset[str] = frozenset()
    """Tasks that hosts with `tasks` keep for themselves."""
    queue: JobQueue = field(default_factory=JobQueue)
    jobs: dict[Path, Submission] = field(default_factory=dict)
    leases: dict[Path, Lease] = field(default_factory=dict)
    attempts: dict[Path, int] = field(default_factory=dict)
    deaths: dict[Path, int] = field(default_factory=dict)
    moves: dict[Path, int] = field(default_factory=dict)
    """How often a job was displaced."""
    avoid: dict[Path, set[str]] = field(default_factory=dict)
    """Hosts that a job was displaced from."""
    unfit: dict[Path, dict[str, str]] = field(default_factory=dict)
    """{folder: {host: why it cannot run there}}."""
    fences: dict[str, dict[Path, int]] = field(default_factory=dict)
    """{host: {folder: attempt}} that must be ended there before anything else is asked of it."""
    unsettled: dict[Path, set[str]] = field(default_factory=dict)
    """{folder: hosts where an attempt that is not on lease any more may be at work}: such a job is leased to nobody."""
    leaving: set[Path] = field(default_factory=set)
    held: set[Path] = field(default_factory=set)
    """Jobs that wait for something other than a host."""

    def add(self, jobs: Sequence[Submission]) -> None:
        """Take jobs over. One that is known and comes without its handle starts anew: its folder was written anew."""
        for job in jobs:
            state = self.queue.states.get(job.folder)
            if state is None:
                known = tuple(need for need in job.needs if need in self.queue.states)
                self.queue.add([replace(job, needs=known)])
            elif not job.handle or state.ended:
                lease = self.leases.pop(job.folder, None)
                if lease is not None:
                    self._fence(job.folder, lease)
                self.queue.set(job.folder, JobState.WAITING)
                self.deaths.pop(job.folder, None)
                self.moves.pop(job.folder, None)
                self.avoid.pop(job.folder, None)
                self.unfit.pop(job.folder, None)
                self.leaving.discard(job.folder)
            self.jobs[job.folder] = job

    def take(self, capacity: NodeCapacity) -> tuple[Submission, int] | None:
        """Lease the first ready job that fits; None if none does."""
        for job in self.queue.ready():
            if job.folder not in self.held and self._fits(job, capacity):
                attempt = self.attempts[job.folder] = self.attempts.get(job.folder, 0) + 1
                self.leases[job.folder] = Lease(capacity.name, attempt)
                self.queue.set(job.folder, JobState.RUNNING)
                return job, attempt
        return None

    def untake(self, folder: Path, attempt: int) -> None:
        """A lease that could not be written down was never used: its number is free again."""
        self.hand_back(folder, attempt)
        if self.attempts.get(folder) == attempt:
            self.attempts[folder] = attempt - 1

    def wanted(self, capacity: NodeCapacity) -> bool:
        """Whether a job waits that fits a host, all of its slots free."""
        empty = replace(capacity, free=capacity.slots)
        return any(job.folder not in self.held and self._fits(job, empty) for job in self.queue.ready())

    def answered(self, folder: Path, attempt: int, answer: StartAnswer) -> None:
        """Note a node's answer to `start`. A `no` holds for good: the node raised its fence before it gave it."""
        if answer["started"]:
            return
        if answer.get("why") == "full":
            self.end(folder, attempt, AttemptOutcome.DISPLACED)
        else:
            self.hand_back(folder, attempt)

    def hand_back(self, folder: Path, attempt: int) -> None:
        """The attempt was not started and never will be (all slots were taken by others): the job waits again."""
        if self._on_lease(folder, attempt):
            del self.leases[folder]
            self.queue.set(folder, JobState.WAITING)

    def end(self, folder: Path, attempt: int, end: AttemptOutcome, why: str = "") -> JobState | None:
        """Note how an attempt ended; the job's new state, or None if that attempt is not on lease any more."""
        if not self._on_lease(folder, attempt):
            return None
        lease = self.leases.pop(folder)
        if end is AttemptOutcome.UNFIT:
            self.unfit.setdefault(folder, {})[lease.host] = why
        state = self._state_after(folder, lease, end)
        self.queue.set(folder, state)
        return state

    def _state_after(self, folder: Path, lease: Lease, end: AttemptOutcome) -> JobState:
        if end in (AttemptOutcome.DONE, AttemptOutcome.FAILED):
            return JobState(end)
        if folder in self.leaving or end is AttemptOutcome.LEFT:
            return JobState.INTERRUPTED
        if end is AttemptOutcome.UNFIT:
            self._fence(folder, lease)
            return JobState.WAITING
        if end is AttemptOutcome.DISPLACED:
            self._fence(folder, lease)
            self.avoid.setdefault(folder, set()).add(lease.host)
            self.moves[folder] = self.moves.get(folder, 0) + 1
            return JobState.WAITING if self.moves[folder] <= MOVES else JobState.FAILED
        self.deaths[folder] = self.deaths.get(folder, 0) + 1
        return JobState.WAITING if self.deaths[folder] <= self.retries else JobState.FAILED

    def lose(self, folder: Path) -> None:
        """Take the lease from its host: the job waits again, until its attempt is ended there or the host given up."""
        self._fence(folder, self.leases.pop(folder))
        self.queue.set(folder, JobState.INTERRUPTED if folder in self.leaving else JobState.WAITING)

    def give_up(self, host: str) -> None:
        """Nobody can reach a host: what it does counts for nothing until it has been fenced. Jobs need not wait for it.

        Only here may two attempts of a job be at work at once: one where nobody can see or end it.
        """
        for folder in list(self.unsettled):
            self._settle(host, folder)

    def _fence(self, folder: Path, lease: Lease) -> None:
        self.fences.setdefault(lease.host, {})[folder] = lease.attempt
        self.unsettled.setdefault(folder, set()).add(lease.host)

    def fenced(self, host: str, folder: Path, attempt: int | None = None) -> None:
        """What was given up at a host has been ended there, up to `attempt` (None: whatever was to be ended)."""
        if attempt is not None and attempt < self.fences.get(host, {}).get(folder, 0):
            return  # an answer to an older question
        self.fences.get(host, {}).pop(folder, None)
        if not self.fences.get(host):
            self.fences.pop(host, None)
        self._settle(host, folder)

    def _settle(self, host: str, folder: Path) -> None:
        hosts = self.unsettled.get(folder, set())
        hosts.discard(host)
        if not hosts:
            self.unsettled.pop(folder, None)

    def stop(self, folders: Iterable[Path] | None = None) -> list[tuple[Path, Lease]]:
        """Jobs that wait will not start; gives the leases of those that must be asked to leave."""
        chosen = [folder for folder in (folders if folders is not None else self.jobs) if folder in self.jobs]
        self.queue.stop(chosen)
        asked = [(folder, self.leases[folder]) for folder in chosen if folder in self.leases]
        self.leaving.update(folder for folder, _ in asked)
        return asked

    def of(self, host: str) -> dict[Path, int]:
        """{folder: attempt} on lease at a host."""
        return {folder: lease.attempt for folder, lease in self.leases.items() if lease.host == host}

    def clear_avoid(self, host: str) -> None:
        """A host has room again: jobs that were displaced from it may come back."""
        for hosts in self.avoid.values():
            hosts.discard(host)

    def _on_lease(self, folder: Path, attempt: int) -> bool:
        lease = self.leases.get(folder)
        return lease is not None and lease.attempt == attempt

    def _fits(self, job: Submission, capacity: NodeCapacity) -> bool:
        if self.unsettled.get(job.folder) or job.folder in self.fences.get(capacity.name, {}):
            return False
        if capacity.name in self.unfit.get(job.folder, {}):
            return False
        task = str(job.resources.get("task", ""))
        if capacity.tasks is not None:
            return task in capacity.tasks and capacity.free >= 1
        if task in self.claimed:
            return False
        wanted = slots_wanted(job, capacity)
        tags = set(tags_of(job))
        return (
            wanted <= capacity.free
            and tags <= capacity.tags | {capacity.name}
            and capacity.name not in self.avoid.get(job.folder, ())
        )

    def unschedulable(self, capacities: Sequence[NodeCapacity]) -> list[Path]:
        """Waiting jobs that none of these hosts could ever take, all slots free and nothing displaced."""
        empty = [replace(capacity, free=capacity.slots) for capacity in capacities]
        waiting = [folder for folder, state in self.queue.states.items() if state is JobState.WAITING]
        calm = LeaseQueue(claimed=self.claimed, unfit=self.unfit)
        return [folder for folder in waiting if not any(calm._fits(self.jobs[folder], capacity) for capacity in empty)]

    def to_json(self) -> dict[str, SavedJob]:
        """Everything that a later keeper needs to go on; jobs themselves are kept elsewhere."""
        known = dict.fromkeys(self.queue.states) | {folder: None for kept in self.fences.values() for folder in kept}
        return {
            str(folder): {
                "state": str(self.queue.states.get(folder, JobState.INTERRUPTED)),
                "host": self.leases[folder].host if folder in self.leases else None,
                "attempt": self.attempts.get(folder, 0),
                "deaths": self.deaths.get(folder, 0),
                "fences": {host: kept[folder] for host, kept in self.fences.items() if folder in kept},
                "unsettled": sorted(self.unsettled.get(folder, ())),
                "leaving": folder in self.leaving,
            }
            for folder in known
        }

    def restore(self, saved: Mapping[str, SavedJob]) -> None:
        """Take up what `to_json` wrote, for the jobs that are known; one that was frozen anew starts anew."""
        for text, entry in saved.items():
            folder = Path(text)
            self.attempts[folder] = entry["attempt"]
            for host, attempt in entry["fences"].items():
                self.fences.setdefault(host, {})[folder] = attempt
            if entry.get("unsettled"):
                self.unsettled[folder] = set(entry["unsettled"])
            if folder not in self.jobs:  # its folder was removed here
                if entry["host"] is not None:
                    self._fence(folder, Lease(entry["host"], entry["attempt"]))
                continue
            self.deaths[folder] = entry["deaths"]
            if entry["host"] is not None:
                lease = Lease(entry["host"], entry["attempt"])
                if not self.jobs[folder].handle:
                    self._fence(folder, lease)
                    continue
                self.leases[folder] = lease
                self.queue.set(folder, JobState.RUNNING)
                if entry["leaving"]:
                    self.leaving.add(folder)


def gpus_of(job: Submission) -> int | None:
    """GPUs that a job asks for; None where it says nothing."""
    asked = job.resources.get("gpus")
    return int(asked) if isinstance(asked, int | float | str) else None


def tags_of(job: Submission) -> list[str]:
    """Tags of the hosts that a job asks for."""
    tags = job.resources.get("tags") or ()
    return [tags] if isinstance(tags, str) else [str(tag) for tag in tags] if isinstance(tags, Sequence) else []


def slots_wanted(job: Submission, capacity: NodeCapacity) -> int:
    """GPUs that a job asks for; one slot on a machine without GPUs, where a job that insists on a GPU never fits."""
    asked = gpus_of(job)
    if capacity.gpus:
        return max(1, asked or 1)
    return 1 if not asked else capacity.slots + 1


def lost_hosts(silent: Mapping[str, float], lost_after_s: float) -> list[str]:
    """Hosts to give up, from {host: seconds since it was last heard, as this machine was awake}.

    None as long as no other host is heard: then it is this machine that has lost its network.
    """
    heard = any(seconds < lost_after_s / 2 for seconds in silent.values())
    return [host for host, seconds in silent.items() if heard and seconds >= lost_after_s]
