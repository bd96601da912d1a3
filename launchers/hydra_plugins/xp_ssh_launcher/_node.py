"""One node as the keeper sees it: connect, make ready, take jobs, watch them, bring back what they write."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hydra_plugins.xp_ssh_launcher._agent_files import NO_ROOM
from hydra_plugins.xp_ssh_launcher._assignments import Assignments, HostState, NodeStatus
from hydra_plugins.xp_ssh_launcher._connection import Connection
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._job_steps import JobSteps
from hydra_plugins.xp_ssh_launcher._ssh_errors import HereFull, NoRoom, Refused, Unreachable
from xp.runs.records.lock import Busy
from xp.shell import command

AT_ONCE = 4
"""Jobs that are sent to or fetched from one node at the same time."""
WATCH_S = 0.5
"""How long the node itself waits for a change before it answers."""
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between tries to reach a node; sshd drops connections when many arrive at once (MaxStartups)."""
REST_S = 2.0
"""How long a node takes no job after somebody else's job had what it needs."""
_LOOK_AT_GPUS_S = 120.0
"""Patience with nvidia-smi, which may take long on a machine under load."""
PATIENT_TRIES = 3
"""Tries before a node that was never reached is reported as silent."""


class Node(Connection):
    """A thread that drives one machine. Everything about who works on what is asked of `Assignments`."""

    def __init__(self, host: Host, assignments: Assignments, steps: JobSteps):
        super().__init__(host, assignments)
        self.steps = steps
        self.state = assignments.hosts[host.name] = HostState(local=host.local)
        self.heard = time.monotonic()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix=host.name)
        self._busy: set[Path] = set()
        self._synced: dict[Path, float] = {}
        self._rest_until = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=host.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Let go of the node; what runs there goes on."""
        self._stop.set()
        self._thread.join(timeout=10)
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def say(self, status: NodeStatus, line: str = "") -> None:
        """Change the status."""
        line = self.assignments.clean(line)
        if (status, line) != (self.state.status, self.state.line):
            self.state.status, self.state.line = status, line
            self.assignments.note(f"{self.name}: {status}" + (f" ({line})" if line else ""))

    # -- the thread

    def _run(self) -> None:
        tries = 0
        while not self._stop.is_set():
            try:
                self._make_ready()
                tries = 0
                while not self._stop.is_set():
                    self._round()
            except HereFull as error:
                self._wait_for_room(error)
            except Unreachable as error:
                tries += 1
                if self.state.status in (NodeStatus.READY, NodeStatus.TAKEN) or tries >= PATIENT_TRIES:
                    self.say(NodeStatus.SILENT, str(error))
                self._stop.wait(BACKOFF_S[min(tries, len(BACKOFF_S)) - 1])
            except NoRoom as error:
                if self.host.local:
                    self._wait_for_room(HereFull(self.assignments.store.experiment))
                    continue
                self.say(NodeStatus.FULL, str(error))
                self._stop.wait(BACKOFF_S[-1])
            except Refused as error:
                self.say(NodeStatus.REFUSED, str(error))
                break
            except OSError as error:
                if error.errno not in NO_ROOM:
                    self.assignments.trace()
                    self.say(NodeStatus.REFUSED, f"{self.name}: {type(error).__name__}: {error}")
                    break
                self._wait_for_room(error)
            except Exception as error:  # noqa: BLE001 - one node's trouble must not end the others
                self.assignments.trace()
                self.say(NodeStatus.REFUSED, f"{self.name}: {type(error).__name__}: {error}")
                break
        self._attend_refused()

    def _wait_for_room(self, error: Exception) -> None:
        """It is this machine whose disk is full: no fault of the node's."""
        self.assignments.here_full(error)
        self.heard = time.monotonic()  # the node is not silent: nobody can listen
        self._stop.wait(BACKOFF_S[2])

    def _make_ready(self) -> None:
        """Connect, look around, send the code, run the set-up commands, end what was given up here."""
        self.greet()
        self.heard = time.monotonic()
        self.claim()
        if self.state.status is not NodeStatus.READY:
            self.say(NodeStatus.SETTING_UP)
        for code in self.assignments.codes():
            self.send_code(code)
        self._end_given_up()
        self.say(NodeStatus.READY)

    def _end_given_up(self) -> None:
        """End here what was taken from this node; what does not end is tried again in the next round."""
        for folder, attempt in self.assignments.fences(self.name).items():
            key = self.assignments.key(folder, attempt)
            try:
                self.work.ask("fence", key=key, folder=str(folder), attempt=attempt + 1, discard=not self.shares_files,
                              patience_s=30)  # fmt: skip
            except Refused as error:
                self.assignments.note(f"{folder.name}: {error}")
                self.rest(BACKOFF_S[2])
                continue
            self.assignments.fenced(self.name, folder, attempt)

    def _attend_refused(self) -> None:
        """A node that cannot be used may still be reached: end there what goes on elsewhere."""
        while not self._stop.wait(BACKOFF_S[3]):
            if not self.assignments.fences(self.name):
                continue
            try:
                self.greet_refused()
                self.heard = time.monotonic()
                self._end_given_up()
            except (Unreachable, Refused) as error:
                self.assignments.note(f"{self.name}: {error}")
            except Exception:  # noqa: BLE001 - it is written down, and tried again
                self.assignments.trace()

    def _round(self) -> None:
        """One look at the jobs here, and at whether there is room for another."""
        self._end_given_up()
        self._ask_to_leave()
        mine = self.assignments.leases(self.name)
        keys = {self.assignments.key(folder, attempt): folder for folder, attempt in mine.items()}
        idle = not keys and not self._busy or self.watch is self.work
        answer = self.watch.ask("poll", keys=list(keys), known=dict.fromkeys(keys, "running"),
                                wait_s=0.0 if idle or self._busy else WATCH_S, patience_s=WATCH_S)  # fmt: skip
        self.heard = time.monotonic()
        self._judge_room(answer["free"])
        for key, state in answer["jobs"].items():
            self._see(keys[key], mine[keys[key]], state)
        if self.state.status in (NodeStatus.READY, NodeStatus.TAKEN) and time.monotonic() >= self._rest_until:
            self._take()
        if idle or self._busy:
            self.assignments.wake.wait(0.05 if self._busy else WATCH_S)

    def _judge_room(self, free: int) -> None:
        low = self.assignments.settings.min_free_gb * 1e9
        if free < low and not self.host.local:
            line = f"{free / 1e9:.1f} GB are free, below hydra.launcher.min_free_gb={low / 1e9:g}"
            look = f"See what is there: {command('task=gc', gc__folder=self.assignments.store.experiment)}"
            self.say(NodeStatus.FULL, f"{self.name}: {line}. {look}")
        elif self.state.status is NodeStatus.FULL:
            self.assignments.clear_avoid(self.name)
            self.say(NodeStatus.READY)

    def _see(self, folder: Path, attempt: int, state: str) -> None:
        if folder in self._busy:
            return
        if state == "unknown":
            self._in_pool(folder, lambda: self._launch(folder, attempt))
        elif state != "running":
            self._in_pool(folder, lambda: self.steps.collect(self, folder, attempt, state))
        elif not self.shares_files and time.monotonic() >= self._synced.get(folder, 0.0):
            self._synced[folder] = time.monotonic() + self.assignments.settings.sync_every_s
            self._in_pool(folder, lambda: self.steps.sync(self, folder, attempt))

    def _launch(self, folder: Path, attempt: int) -> None:
        if not self.steps.launch(self, folder, attempt):
            self.rest(REST_S)

    def _take(self) -> None:
        most, gpus, found = self._free_now(), self.has_gpus, False
        while len(self._busy) < AT_ONCE and most > 0:
            taken = self.assignments.take(self.capacity, most)
            if taken is None:
                break
            found = True
            most -= self.slots_of(taken[0])
            folder, attempt = taken
            self._in_pool(folder, lambda folder=folder, attempt=attempt: self._launch(folder, attempt))
        if gpus and not found:
            self.rest(REST_S)  # looking at GPUs is not cheap

    def _free_now(self) -> int:
        """Slots that nobody uses, as far as that is known before a job is sent: other people's too for GPUs."""
        capacity = self.capacity
        if not capacity.gpus or capacity.free <= 0 or not self.assignments.wanted(capacity):
            return capacity.free
        room = self.watch.ask("room", slots=self.facts["slots"], patience_s=_LOOK_AT_GPUS_S)
        starting = sum(self.slots_of(folder) for folder in self.assignments.leases(self.name)
                       if folder in self._busy)  # fmt: skip
        if room["free"] > 0:
            self.say(NodeStatus.READY)
        elif not self.assignments.leases(self.name):
            self.taken("; ".join(room["lines"]))
        if room["free"] <= starting:
            self.rest(REST_S)
        return room["free"] - starting

    def taken(self, line: str) -> None:
        """Say that others have what the jobs here need; it is looked at again soon, and jobs may go elsewhere."""
        self.say(NodeStatus.TAKEN, f"{self.name} waits: {line}. hydra.launcher.gpu_used_max=1 takes it nevertheless")

    def _ask_to_leave(self) -> None:
        for folder, attempt, grace_s in self.assignments.leaving(self.name):
            self.work.ask("stop", key=self.assignments.key(folder, attempt), grace_s=grace_s)

    def rest(self, seconds: float) -> None:
        """Take no job for a while: somebody else's jobs have the machine."""
        self._rest_until = time.monotonic() + seconds

    def _in_pool(self, folder: Path, work: Callable[[], None]) -> None:
        self._busy.add(folder)

        def run() -> None:
            try:
                work()
            except HereFull as error:
                self._wait_for_room(error)
            except (Unreachable, Refused, Busy) as error:
                self.assignments.note(f"{folder.name} at {self.name}: {error}")
                self._stop.wait(1.0)
            except OSError as error:
                if error.errno in NO_ROOM:
                    self._wait_for_room(error)
                    return
                self.assignments.trace()
                self._stop.wait(1.0)
            except Exception:  # noqa: BLE001 - it is written down, and the next round tries again
                self.assignments.trace()
                self._stop.wait(1.0)
            finally:
                self._busy.discard(folder)
                self.assignments.wake.set()

        self._pool.submit(run)
